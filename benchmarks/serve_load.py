"""Two hundred clients ask a server for minutes, a tenth hang up, a tenth send rubbish: `make load`.

Every good request must be answered by its image, or by a 429 that says when to come again; rubbish
by a 4xx; no job may be run for who has gone, but for those that were in their last step; and the
memory of the server and its workers must not grow. One more client asks as the page does, for one
image after another in a stream: its latency is printed, alone and among the others.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
from PIL import Image

LCM = Path(sys.executable).with_name("lcm")
SCRIBBLE = Path(__file__).parents[1] / "docs" / "pictures" / "scribble.png"
SIDE = 64
GENERATE, EDIT = "/v1/images/generations", "/v1/images/edits"
ALONE = 10  # images of the page before the others come
GROWTH = 1.15  # of the memory from the first third of the time to the last


def pages_of(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def children(pid: int) -> list[int]:
    """The processes that a process has started from its main thread."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in listed]


class Load:
    """The clients, and what they have seen."""

    def __init__(self, url: str, until: float) -> None:
        self._url = url
        self._until = until
        self.seen: Counter[str] = Counter()

    async def client(self, number: int) -> None:
        """One client: of ten requests eight are good, one is hung up on, and one is rubbish."""
        draw = random.Random(number)
        async with httpx.AsyncClient(base_url=self._url, timeout=120) as http:
            while time.monotonic() < self._until:
                kind = draw.randrange(10)
                try:
                    if kind == 0:
                        await self._hang_up(draw)
                    elif kind == 1:
                        await self._rubbish(http, draw)
                    else:
                        await self._good(http, draw.randrange(2**31))
                except httpx.HTTPError as error:
                    self.seen[f"LOST: {type(error).__name__}"] += 1

    async def _good(self, http: httpx.AsyncClient, seed: int) -> None:
        body = {"prompt": "a lake", "size": f"{SIDE}x{SIDE}", "num_inference_steps": 2}
        answer = await http.post(GENERATE, json={**body, "seed": seed})
        if answer.status_code == 429:
            self.seen["good: 429"] += 1
            await asyncio.sleep(min(2.0, float(answer.headers["retry-after"])) * random.random())
            return
        right = answer.status_code == 200
        if right:
            (data,) = answer.json()["data"]
            image = Image.open(io.BytesIO(base64.b64decode(data["b64_json"])))
            right = data["seed"] == seed and image.size == (SIDE, SIDE)
        self.seen["good: image" if right else f"WRONG: {answer.status_code}"] += 1

    async def _hang_up(self, draw: random.Random) -> None:
        """Ask for many steps, and go."""
        host, port = re.fullmatch(r"http://(.*):(\d+)", self._url).groups()  # type: ignore[union-attr]
        content = json.dumps({"prompt": "x", "num_inference_steps": 50, "stream": True}).encode()
        head = f"POST {GENERATE} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode() + content)
        await asyncio.sleep(draw.random())
        writer.close()
        self.seen["hung up"] += 1

    async def _rubbish(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        files = {"image": SCRIBBLE.read_bytes()[: draw.randrange(200)]}
        answer = await draw.choice(
            [
                lambda: http.post(GENERATE, content=draw.randbytes(draw.randrange(2000))),
                lambda: http.post(GENERATE, json={"prompt": "x", "size": "65x64"}),
                lambda: http.post(EDIT, data={"prompt": "x"}, files=files),
                lambda: http.post("/sdapi/v1/img2img", json={"init_images": ["AAAA"]}),
                lambda: http.get("/page/../../etc/passwd"),
            ]
        )()
        fine = 400 <= answer.status_code < 500
        self.seen["rubbish: 4xx" if fine else f"WRONG: rubbish: {answer.status_code}"] += 1


async def draw_on_page(url: str, count: int | None, until: float) -> list[float]:
    """Seconds of each image of the page: `count`, or as many as there are until then."""
    seconds = []
    data = {"prompt": "a lake at night", "seed": "7", "stream": "true", "size": "128x128"}
    files = {"image": SCRIBBLE.read_bytes()}
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        while len(seconds) < count if count is not None else time.monotonic() < until:
            start = time.monotonic()
            answer = await http.post(EDIT, data=data, files=files)
            if answer.status_code == 200 and "image_edit.completed" in answer.text:
                seconds.append(time.monotonic() - start)
            else:
                await asyncio.sleep(0.1)
    return seconds


async def watch(pid: int, until: float) -> list[int]:
    """Resident bytes of the server and its workers, a few times a second."""
    sizes = []
    while time.monotonic() < until:
        sizes.append(sum(map(pages_of, [pid, *children(pid)])))
        await asyncio.sleep(0.25)
    return sizes


async def put_load(url: str, pid: int, clients: int, seconds: float) -> tuple[bool, Load]:
    """Run all clients; whether the memory was flat, and what they have seen."""
    alone = await draw_on_page(url, ALONE, 0)
    until = time.monotonic() + seconds
    load = Load(url, until)
    among, sizes, *_ = await asyncio.gather(
        draw_on_page(url, None, until), watch(pid, until), *map(load.client, range(clients))
    )
    for name, found in (("alone", alone), ("among them", among)):
        if found:
            slow = sorted(found)[int(len(found) * 0.95)]
            middle = statistics.median(found)
            print(f"the page {name}: median {middle:.2f} s, 95 % within {slow:.2f} s, {len(found)}")
    third = len(sizes) // 3
    first, last = (max(each) for each in (sizes[:third], sizes[-third:]))
    print(f"memory: {first / 2**20:.0f} MiB in the first third, {last / 2**20:.0f} in the last")
    return last < GROWTH * first, load


def main() -> int:
    """Print what became of the requests; 1 if anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--workers", default="1")
    args = parser.parse_args()
    with tempfile.TemporaryFile("w+") as log:
        command = [LCM, "serve", "--port", "0", "--workers", args.workers]
        server = subprocess.Popen(command, stderr=log)
        try:
            text = ""
            while "serving at" not in text and server.poll() is None:
                time.sleep(0.1)
                log.seek(0)
                text = log.read()
            url = re.search(r"serving at (\S+)/", text)[1]  # type: ignore[index]
            flat, load = asyncio.run(put_load(url, server.pid, args.clients, args.seconds))
        finally:
            server.terminate()
            server.wait(60)
        log.seek(0)
        *lines, last = log.read().splitlines()
    for what, count in sorted(load.seen.items()):
        print(f"{what}: {count}")
    print(last)
    unwanted = int(re.search(r"of which (\d+)", last)[1])  # type: ignore[index]
    statuses = Counter(json.loads(line)["status"] for line in lines if line.startswith("{"))
    print("statuses:", dict(statuses))
    bad = [what for what in load.seen if what.startswith(("LOST", "WRONG"))]
    bad += [str(status) for status in statuses if status >= 500]
    bad += [] if flat else ["the memory grew"]
    bad += [f"{unwanted} jobs for nobody"] if unwanted > load.seen["hung up"] / 20 + 1 else []
    print("failed: " + ", ".join(bad) if bad else "all as it should be")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
