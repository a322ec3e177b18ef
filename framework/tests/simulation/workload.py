"""Work whose order would differ from run to run if anything in the loop leaked: sets of tasks, futures, time-outs, kills."""

from __future__ import annotations

import asyncio
import sys
from random import Random

from millstream.testing.simulation.loop import Order, SimulationLoop


def digest(seed: int, order: Order = "any") -> str:
    """The digest of a run of it, behind which stands what its tasks did."""
    loop = SimulationLoop(seed, order=order)
    random = Random(seed)

    async def chat(number: int, queue: asyncio.Queue[int], lock: asyncio.Lock) -> None:
        for _ in range(5):
            await queue.put(number)
            async with lock:
                await asyncio.sleep(random.random() / 100)
            loop.note(await queue.get())

    async def crowd() -> None:
        queue, lock = asyncio.Queue[int](7), asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            tasks = {group.create_task(chat(n, queue, lock)) for n in range(12)}
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                loop.note(len(task.get_name()))
            for task in tasks - done:
                loop.note(len(task.get_name()))

    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        processes = [loop.process(f"p{n}") for n in range(4)]
        for process in processes:
            process.spawn(crowd())
        await asyncio.sleep(0.05)
        processes[0].kill()
        processes[1].pause()
        await asyncio.sleep(3)
        processes[1].resume()
        await asyncio.sleep(3)

    loop.run(main)
    return loop.digest


if __name__ == "__main__":
    sys.stdout.write(" ".join(digest(int(seed), order) for seed in sys.argv[1:] for order in ("any", "fifo")))
