import sys
import tempfile
from pathlib import Path
from benchmarks.data import DATA, Folder
from benchmarks.places import PLACES, Servers
from benchmarks.rounds import measure
from benchmarks.workloads import Workload

root = Path(tempfile.gettempdir()) / "bl" / "bench"
root.mkdir(exist_ok=True, parents=True)
folder = Folder(root)
with Servers(root) as servers:
    for place in sys.argv[1].split(","):
        for data in sys.argv[2].split(","):
            for candidate in measure(Workload(PLACES[place], DATA[data], "whole"), folder, servers):
                print(place, data, candidate.system, candidate.setting, round(candidate.seconds, 3), [round(o.seconds,3) for o in candidate.outcomes], candidate.outcomes[-1].peak/1e6 if candidate.outcomes else None, candidate.traffic, candidate.warm_up.error[-300:], flush=True)
