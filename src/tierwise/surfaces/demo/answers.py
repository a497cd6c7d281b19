"""What the simulated models say: right answers of the wanted size, put together from interchangeable sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tierwise.surfaces.demo.models import Profile

_SPREAD: Final = 0.12
"""An answer's wanted size lies this far around the model's mean size for the task."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer, in one of several wordings; parts that are not needed fill the answer up to its size."""

    wordings: tuple[str, ...]
    needed: bool = False


def kind_of(prompt: str) -> str:
    """Which kind of answer a prompt asks for: one of the five tasks, `hello`, `small-json` or `other`."""
    text = prompt.casefold()
    if "json" in text:
        return "strict-json" if "ticket" in text else "small-json"
    signs = {
        "summary": ("bullet",),
        "bug-fix": ("def ", "sort"),
        "token-cost": ("tokens", "$"),
        "reasoning": ("minutes", "worker"),
        "hello": ("hello",),
    }
    return next((kind for kind, words in signs.items() if all(word in text for word in words)), "other")


def answer(profile: Profile, prompt: str, draw: Random, *, json_mode: bool = False) -> str:
    """The visible text of one answer; in JSON mode (`response_format`) no model adds a code fence."""
    kind = kind_of(prompt)
    wanted = round(profile.chars.get(kind, 0) * draw.uniform(1 - _SPREAD, 1 + _SPREAD))
    if kind in ("strict-json", "small-json"):
        fenced = profile.fences_json and not json_mode
        body = _ticket(wanted - (len("```json\n\n```") if fenced else 0), draw) if kind == "strict-json" else _SMALL
        return f"```json\n{body}\n```" if fenced else body
    if kind == "summary":
        return "\n".join(f"- {_filled(parts, wanted / 5 - 3, draw, ' ')}" for parts in _SUMMARY)
    if kind == "hello":
        return draw.choice(_HELLO)
    if kind == "other":
        return draw.choice(_OTHER)
    separator = "\n\n" if kind == "bug-fix" else "\n"
    return _filled(_PARTS[kind], wanted, draw, separator)


def _filled(parts: Sequence[Part], wanted: float, draw: Random, separator: str) -> str:
    """The needed parts, and as many of the others as bring the text nearest to the wanted size."""
    words = [draw.choice(part.wordings) for part in parts]
    chosen = {index for index, part in enumerate(parts) if part.needed}
    size = sum(len(words[index]) + len(separator) for index in chosen) - len(separator)
    spare = [index for index in range(len(parts)) if index not in chosen]
    draw.shuffle(spare)
    for index in spare:
        more = len(words[index]) + len(separator)
        if abs(size + more - wanted) < abs(size - wanted):
            chosen.add(index)
            size += more
    return separator.join(words[index] for index in sorted(chosen))


def _ticket(wanted: int, draw: Random) -> str:
    value = {
        "title": draw.choice(("Checkout fails with a timeout", "Checkout times out for card payments")),
        "severity": "high",
        "component": "payments",
        "affected_users": 340,
        "summary": "",
    }
    value["summary"] = _filled(_TICKET_SUMMARY, wanted - len(json.dumps(value, indent=2)), draw, " ")
    return json.dumps(value, indent=2)


def _must(*wordings: str) -> Part:
    return Part(wordings, needed=True)


def _may(*wordings: str) -> Part:
    return Part(wordings)


_SMALL: Final = '{"greeting": "hello"}'
_HELLO: Final = (
    "Hello, it is good to meet you!",
    "Hello there, I hope your day is going well.",
    "Hello and welcome, how can I help you today?",
)
_OTHER: Final = (
    "This gateway is simulated: it answers the built-in suite's tasks and says this to everything else.",
    "I am a simulated model and have an answer for the built-in suite's tasks only.",
)

_SUMMARY: Final[tuple[tuple[Part, ...], ...]] = (
    (
        _must(
            "The 09:10 release moved the session cache to a new cluster.",
            "A release at 09:10 switched session storage to a new cache cluster.",
        ),
        _may("It went out to every region at once.", "All regions received it together."),
        _may("No gradual rollout was used.", "The usual staged rollout was skipped."),
        _may("The change had passed its checks in the test environment.", "Staging had shown no problem before."),
        _may("It was planned work.", "The work was planned."),
    ),
    (
        _must(
            "Logins began to fail within five minutes, for about 12 % of users.",
            "About 12 % of users could not log in from 09:15 on.",
        ),
        _may("Users with an open session noticed nothing.", "Open sessions went on working."),
        _may("The support queue tripled.", "Support tickets rose threefold."),
        _may("Mobile users were hit harder than others.", "Most of them used the mobile app."),
        _may("Retries rarely helped.", "Retrying seldom helped."),
    ),
    (
        _must(
            "The cause was a connection limit left at its default of 50.",
            "A default limit of 50 connections on the new cluster was the cause.",
        ),
        _may("The old cluster allowed 400.", "The former cluster had been set to 400."),
        _may("The setting was not part of the migration list.", "Nobody had listed it for the migration."),
        _may("Load tests had used too few clients to see it.", "Load tests stayed below the limit."),
        _may("New logins were refused.", "The rest was refused."),
    ),
    (
        _must(
            "The team rolled back at 09:42 and logins recovered by 09:50.",
            "A rollback at 09:42 restored logins by 09:50.",
        ),
        _may("No data was lost.", "All data stayed intact."),
        _may("Sessions made in between had to be renewed once.", "Some users had to log in a second time."),
        _may("The status page was updated twice meanwhile.", "Customers were told through the status page."),
        _may("It took 32 minutes.", "That was after 32 minutes."),
    ),
    (
        _must(
            "Next: copy limits automatically and release in stages.",
            "Follow-up: limits are copied by script and releases go out in stages.",
        ),
        _may("An alert on refused connections is added.", "Refused connections will raise an alert."),
        _may("The load test will use production numbers.", "Load tests will follow production traffic."),
        _may("Owners and dates are in the review document.", "Each action has an owner and a date."),
        _may("The review is on Friday.", "A review follows on Friday."),
    ),
)

_PARTS: Final[dict[str, tuple[Part, ...]]] = {
    "reasoning": (
        _may("Let me lay out the jobs and what each of them waits for.", "First, the constraints in order."),
        _must(
            "Job A takes 2 minutes and can start at once; B takes 3 and needs A; C takes 1 and needs B.",
            "A (2 minutes) comes first, then B (3 minutes), then C (1 minute), because each needs the one before.",
        ),
        _may("This chain cannot be shortened, however many workers there are.", "No worker can speed this chain up."),
        _must(
            "Job D takes 4 minutes and depends on nothing, so the second worker does it meanwhile.",
            "D (4 minutes) is independent and runs on the other worker at the same time.",
        ),
        _may("Worker 1, minutes 0 to 2: job A.", "From 0 to 2, worker 1 does A."),
        _may("Worker 1, minutes 2 to 5: job B.", "From 2 to 5, worker 1 does B."),
        _may("Worker 1, minutes 5 to 6: job C.", "From 5 to 6, worker 1 does C."),
        _may("Worker 2, minutes 0 to 4: job D, then it is free.", "From 0 to 4, worker 2 does D and then waits."),
        _may(
            "The lower bound is the longest chain: 2 + 3 + 1.",
            "The critical path is A, B, C, with 2 + 3 + 1 minutes.",
        ),
        _may(
            "The total work is 10 minutes, which two workers could share in 5 at best, so the chain decides.",
            "Sharing 10 minutes of work between two workers gives 5 as a bound, which the chain exceeds.",
        ),
        _may(
            "The schedule above reaches this bound, so it is optimal.", "As the plan meets the bound, none is faster."
        ),
        _may("Starting D later would not help either.", "Moving D around changes nothing for the end."),
        _may(
            "A third worker would have nothing to do: only two jobs can ever run at the same time here.",
            "Adding a third worker changes nothing, since no three jobs can run at the same moment.",
        ),
        _may(
            "To finish earlier, one of the jobs on the chain itself would have to become shorter.",
            "Only a shorter job on the chain A, B, C could bring the end forward.",
        ),
        _may(
            "Checking the waits once more: B starts when A ends, C starts when B ends, and both hold above.",
            "Each wait is respected: B begins right after A, and C begins right after B.",
        ),
        _must("The minimum total time is 6 minutes.", "Answer: 6 minutes.", "So everything is done after 6 minutes."),
    ),
    "bug-fix": (
        _must(
            "The function sorts in ascending order, so the lowest scores come first. Sort in descending order instead:",
            "`sorted` puts the smallest values first by default, and the slice then keeps the lowest scores. Reverse it:",
        ),
        _must(
            "```python\ndef top_scores(scores, count=3):\n    return sorted(scores, reverse=True)[:count]\n```",
            '```python\ndef top_scores(scores, count=3):\n    """Return the highest scores, best first."""\n'
            "    return sorted(scores, reverse=True)[:count]\n```",
        ),
        _may(
            "**What was wrong:** `sorted(scores)[:count]` returns the `count` smallest values.",
            "**The bug:** without `reverse=True` the slice takes the wrong end of the list.",
        ),
        _may(
            "**Why this works:** `reverse=True` sorts from high to low, and the slice keeps the first `count` values.",
            "**Why it helps:** with `reverse=True` the best scores stand at the front, where the slice takes them.",
        ),
        _may(
            "For example, `top_scores([3, 9, 4, 7])` now returns `[9, 7, 4]`; before, it returned `[3, 4, 7]`.",
            "With `[3, 9, 4, 7]` the old code gave `[3, 4, 7]`, and the new code gives `[9, 7, 4]`.",
        ),
        _may(
            "The input list is not changed, since `sorted` makes a new list.",
            "`sorted` returns a new list, so the caller's list keeps its order.",
        ),
        _may(
            "Sorting stays stable with `reverse=True`, so equal scores keep their order.",
            "Equal scores keep the order in which they came.",
        ),
        _may(
            "If the list is long and `count` is small, `heapq.nlargest(count, scores)` does the same with less work.",
            "For very long lists `heapq.nlargest(count, scores)` is an alternative that avoids a full sort.",
        ),
        _may(
            "A list that is shorter than `count` is returned whole, and an empty list stays empty.",
            "Short and empty lists need no special treatment, because slices never raise.",
        ),
        _may(
            "A test worth adding: check the order as well as the values, since the old code returned the right number "
            "of scores and so passed a test of the length alone.",
            "I would add a test for the order, because a test that only counts the results passes with the old code.",
        ),
        _may(
            "Sorting by a key works in the same way: `sorted(players, key=lambda player: player.score, reverse=True)`.",
            "If the entries become objects later, add `key=` and keep `reverse=True`.",
        ),
        _may(
            "Negating the values and sorting upwards would work for numbers too, but it is harder to read and fails for "
            "anything that cannot be negated, so `reverse=True` is the better choice.",
            "You could also sort first and take the slice from the end, `sorted(scores)[-count:]`, but then the best "
            "score comes last and `count=0` returns the whole list, so I would not.",
        ),
        _may(
            "The default of `count=3` and the name of the function stay as they were, so callers need no change.",
            "Nothing changes for callers: name, arguments and default value are the same as before.",
        ),
        _may(
            "The cost stays the same, one sort of the list.",
            "It is no slower than before: still one sort of the list.",
        ),
    ),
    "token-cost": (
        _may("Input and output tokens are billed apart.", "Let us price input and output separately."),
        _must(
            "Input: 1.2 million tokens × $3.00 per million = $3.60.",
            "The input costs 1.2 × $3.00 = $3.60.",
        ),
        _must(
            "Output: 0.42 million tokens × $15.00 per million = $6.30.",
            "The output costs 0.42 × $15.00 = $6.30.",
        ),
        _may(
            "The prices are given per million tokens, so the counts are divided by one million first.",
            "Both counts are first turned into millions, because the prices are per million.",
        ),
        _may(
            "1,200,000 / 1,000,000 = 1.2 million input tokens.",
            "1,200,000 input tokens are 1.2 million.",
        ),
        _may(
            "420,000 / 1,000,000 = 0.42 million output tokens.",
            "420,000 output tokens are 0.42 million.",
        ),
        _may(
            "Output is about a quarter of all tokens and still nearly two thirds of the bill.",
            "Although fewer, the output tokens make up most of the cost.",
        ),
        _may(
            "No discount for cached input is mentioned, so none is applied.",
            "Cached input would be cheaper, but the question names none.",
        ),
        _may(
            "Shorter answers would therefore save more than shorter prompts.",
            "To lower the bill, limit the length of the answers first.",
        ),
        _may("Adding both parts gives the total.", "The total is the sum of the two amounts."),
        _may("$3.60 + $6.30 is the whole bill for the day.", "The day's bill is $3.60 plus $6.30."),
        _may(
            "Rounding plays no part here, because both amounts are exact to the cent.",
            "Both amounts come out to the cent, so there is nothing to round.",
        ),
        _may(
            "If the traffic doubles, both parts double, because the prices do not depend on the volume.",
            "The bill grows in proportion to the traffic, since there are no volume discounts in the question.",
        ),
        _may("Taxes and fees are left out.", "This is the price before taxes."),
        _must("Total: $9.90", "The total cost is $9.90.", "Together that is **$9.90**."),
    ),
}

_TICKET_SUMMARY: Final = (
    _must("Card payments time out at checkout.", "Checkout times out when paying by card."),
    _may("It started after the latest release.", "First seen after the latest release."),
    _may("About 340 customers are affected.", "Some 340 customers cannot pay."),
    _may("Other ways to pay still work.", "Payment by invoice is not affected."),
    _may("A retry succeeds now and then.", "Trying again helps sometimes."),
    _may("The provider reports no outage.", "No outage is known at the provider."),
    _may("Support asks for a fix today.", "A fix is needed today."),
    _may("It happens in every browser.", "The browser makes no difference."),
    _may("Invoices sent earlier are correct.", "Earlier payments are in order."),
)
