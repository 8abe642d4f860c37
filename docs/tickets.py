"""Writes support tickets to train on: `python -m docs.tickets FILE [ROWS]`, the example of docs/training.md.

Invented: six queues, and sentences put together from parts that several queues share, so that a few of them are hard.
"""

import csv
import random
import sys
from pathlib import Path

_OPENINGS = ("", "", "Hello, ", "Hi there, ", "Good morning, ", "Dear support, ", "Urgent: ", "Once more: ")
_ENDINGS = (
    "",
    "",
    "",
    " Thank you.",
    " Please help.",
    " What can I do?",
    " This is the second time.",
    " Kind regards",
)
_THINGS = (
    "the blue lamp",
    "my headphones",
    "the coffee grinder",
    "two shirts",
    "a desk chair",
    "the phone case",
)
_SENTENCES = {
    "delivery": (
        "{thing} should have been here on {day} and has not come",
        "the parcel with {thing} says delivered but nobody gave it to me",
        "where is order {number}, tracking has not moved since {day}",
        "can the courier leave {thing} with my neighbour on {day}",
        "I moved, please send order {number} to my new address",
    ),
    "returns": (
        "{thing} is too small and I want to send it back",
        "how long do I have to return {thing}, it came on {day}",
        "I need a return label for order {number}",
        "{thing} arrived broken, can I swap it for another one",
        "I sent {thing} back on {day} and have heard nothing since",
    ),
    "billing": (
        "I was charged twice for order {number}",
        "the invoice for {thing} has the wrong amount on it",
        "my card was declined on {day} though there is money on it",
        "please send the invoice for order {number} to my company",
        "the discount for {thing} was not taken off the price",
    ),
    "account": (
        "I cannot log in since {day}, the reset mail never comes",
        "please change the email address of my account",
        "how do I delete my account and all that you know of me",
        "the app signs me out again and again since {day}",
        "someone else has used my account to order {thing}",
    ),
    "product": (
        "does {thing} come in another colour",
        "how do I clean {thing} without scratching it",
        "is {thing} made for use outdoors",
        "what are the measures of {thing}, they are not on the page",
        "the manual of {thing} is missing a page, how is it set up",
    ),
    "cancellation": (
        "please cancel order {number}, I ordered {thing} by mistake",
        "I want to stop my subscription before {day}",
        "cancel {thing} from my order but keep the rest",
        "I changed my mind about order {number}, it has not shipped yet",
        "end my membership and tell me when the last payment is",
    ),
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "the 3rd", "the 17th")


def tickets(num_rows: int, seed: int = 1) -> list[tuple[str, str]]:
    """(text, queue), no text twice."""
    draw = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < num_rows:
        queue = list(_SENTENCES)[len(rows) % len(_SENTENCES)]
        sentence = draw.choice(_SENTENCES[queue]).format(
            thing=draw.choice(_THINGS), day=draw.choice(_DAYS), number=draw.randint(10000, 99999)
        )
        rows[draw.choice(_OPENINGS) + sentence + draw.choice(_ENDINGS)] = queue
    return list(rows.items())


def main() -> None:
    path, num_rows = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 300
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "queue"])
        writer.writerows(tickets(num_rows))


if __name__ == "__main__":
    main()
