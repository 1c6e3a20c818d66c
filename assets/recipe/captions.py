"""Captions: one of many wordings for what a scene shows."""

from collections.abc import Callable, Sequence

import numpy as np
from scene import Scene

PLACE = {
    "meadow": ["a green meadow", "green hills", "a summer meadow", "a meadow", "grassy hills"],
    "autumn": ["autumn hills", "an autumn landscape", "orange autumn fields", "autumn"],
    "snow": ["a snowy landscape", "a winter landscape", "snow covered hills", "snow", "winter"],
    "desert": ["a desert", "sand dunes", "a sandy desert", "a desert landscape"],
    "forest": ["a dark green forest", "a forest", "deep woods", "a forest landscape"],
}
ADJECTIVE = {
    "meadow": ["green", "grassy"],
    "autumn": ["autumn"],
    "snow": ["snowy", "winter"],
    "desert": ["desert", "sandy"],
    "forest": ["forest"],
}
TIME = {
    "day": ["in the daytime", "at noon", "under a blue sky", "on a sunny day", ""],
    "sunset": ["at sunset", "at dusk", "in the evening"],
    "dawn": ["at dawn", "at sunrise", "in the early morning"],
    "night": ["at night", "under a starry sky", "by moonlight", "at night"],
}
MOUNTAINS = ["mountains", "mountains", "a mountain"]
HOUSE = ["a house", "a house", "a cottage", "a cabin"]
TREES = {"pine": ["pine trees", "pines"], "round": ["trees"], "bare": ["bare trees"]}
CACTUS = ["cactus", "a cactus"]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Word a scene: the place, what is in it, the time of day and the style, in varying order."""

    def pick(wordings: Sequence[str]) -> str:
        return wordings[int(rng.integers(len(wordings)))]

    things = features(scene, pick)
    rng.shuffle(things)
    lead = [
        thing for thing in things if thing.split()[0] not in ("bare", "clouds", "pine", "pines")
    ]
    if lead and rng.random() < 0.2:
        things.remove(lead[0])
        text = qualify(pick(ADJECTIVE[scene.place]), lead[0])
    else:
        text = pick(PLACE[scene.place])
    parts = [text, "with " + enumerate_things(things, pick([" and ", ", "]))] if things else [text]
    parts.insert(1 if rng.random() < 0.25 else len(parts), pick(TIME[scene.time]))
    text = " ".join(part for part in parts if part)
    if scene.style == "plain":
        return text
    return pick([f"{text}, {scene.style}", f"a {scene.style} of {text}", f"{scene.style}, {text}"])


def features(scene: Scene, pick: Callable[[Sequence[str]], str]) -> list[str]:
    """Name what stands in the scene."""
    things = []
    if scene.mountains:
        things.append(pick(MOUNTAINS))
    if scene.water != "none":
        things.append(f"a {scene.water}")
    if scene.trees != "none":
        cactus = scene.trees == "round" and scene.place == "desert"
        things.append(pick(CACTUS if cactus else TREES[scene.trees]))
    if scene.house:
        things.append(pick(HOUSE))
    if scene.clouds:
        things.append("clouds")
    return things


def qualify(adjective: str, thing: str) -> str:
    """Put an adjective before a thing: "a lake" -> "a snowy lake"."""
    if not thing.startswith("a "):
        return f"{adjective} {thing}"
    return f"{'an' if adjective[0] in 'aeiou' else 'a'} {adjective} {thing[2:]}"


def enumerate_things(things: Sequence[str], comma: str) -> str:
    """Join with commas or "and", and always "and" before the last."""
    return " and ".join([comma.join(things[:-1]), things[-1]] if len(things) > 1 else things)
