"""Draws a log with a million items: python draw.py FILE

400,000 people with 10 to 40 events each, every person with three of 2,000 tastes; a taste has 500 items of its own,
chosen by a power law of 0.8. Seeded.
"""
import sys
import numpy as np

USERS, TASTES, ITEMS_OF_A_TASTE, BLOCK = 400_000, 2_000, 500, 20_000
rng = np.random.default_rng(1)
share = 1 / np.arange(1, ITEMS_OF_A_TASTE + 1) ** 0.8
running = np.cumsum(share / share.sum())
with open(sys.argv[1], "w") as out:
    out.write("user,item,at\n")
    for first in range(0, USERS, BLOCK):
        tastes = rng.integers(0, TASTES, (BLOCK, 3))
        events = rng.integers(10, 41, BLOCK)
        user = np.repeat(np.arange(BLOCK), events)
        taste = tastes[user, rng.integers(0, 3, len(user))]
        item = taste * ITEMS_OF_A_TASTE + np.searchsorted(running, rng.random(len(user)))
        at = 1_700_000_000 + rng.integers(0, 10_000_000, len(user))
        out.writelines(f"u{first + u},i{i},{t}\n" for u, i, t in zip(user, item, at))
