"""Pairs of programs, run one after the other on one worker: the second looks for what the first has left.

The same of tests: they are trusted, but one that changes a setting must not change the verdict of the next.
"""

from __future__ import annotations

LEAVES = {
    "builtins": """
import builtins
def leave(): builtins.left = "left"; builtins.abs = lambda x: "left"
""",
    "modules": """
import json, math, sys, types
def leave():
    math.left = json.loads = sys.left = "left"
    sys.modules["left"] = types.ModuleType("left")
    sys.path.append("left")
    sys.modules.pop("heapq", None)
""",
    "objects": """
kept = [("left-behind-object", number) for number in range(1000)]
import gc
def leave():
    gc.freeze()
    gc.callbacks.append(lambda *a: None)
""",
    "the serving code": """
import gc, sys, types
def leave():
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__name__ in ("serve", "receive", "_failure", "install"):
            thing.left = "left"
""",
    "environment": """
import os
def leave(): os.environ["LEFT"] = "left"; os.putenv("LEFT", "left")
""",
    "files": """
import os
def leave():
    try:
        open("left", "w").write("left")
        os.mkdir("folder")
    except OSError: pass
""",
    "settings of the interpreter": """
import decimal, gc, random, signal, sys, threading
def leave():
    sys.setrecursionlimit(5000)
    sys.setswitchinterval(1.0)
    decimal.getcontext().prec = 3
    random.seed(5)
    gc.disable()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    threading.stack_size(1 << 20)
    sys.settrace(lambda *a: None)
    sys.set_int_max_str_digits(0)
""",
    "threads": """
import signal, threading, time
def leave():
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.signal(signal.SIGALRM, lambda *a: None)
""",
}

LOOKS = {
    "builtins": """
import builtins
def look(): return [name for name in ("left",) if hasattr(builtins, name)] + ([] if abs(-1) == 1 else ["abs"])
""",
    "modules": """
import json, math, sys
def look():
    found = [str(module) for module in (math, sys) if hasattr(module, "left")]
    import heapq
    return found + ["left"] * ("left" in sys.modules or "left" in sys.path) + ["json"] * (json.loads("[]") != [])
""",
    "objects": """
import gc
def look():
    gc.unfreeze()
    words = [x[0] for x in gc.get_objects() if type(x) is tuple and x and type(x[0]) is str]
    return [word for word in words if word[:9] == "left-" + "behi"][:3] + list(map(str, gc.callbacks))
""",
    "the serving code": """
import gc
def look():
    functions = [thing for thing in gc.get_objects() if type(thing) is type(look)]
    return [function.__name__ for function in functions if hasattr(function, "left")]
""",
    "environment": """
import ctypes, os
def look():
    return list(os.environ) + [str(found) for found in [ctypes.CDLL(None).getenv(b"LEFT")] if found]
""",
    "files": """
import os
def look():
    try:
        return os.listdir(".")
    except OSError:
        return []
""",
    "settings of the interpreter": """
import decimal, gc, random, signal, sys, threading
def look():
    values = {
        "recursion": sys.getrecursionlimit() == 5000, "switch": sys.getswitchinterval() > 0.5,
        "decimal": decimal.getcontext().prec == 3, "gc": not gc.isenabled(), "trace": sys.gettrace() is not None,
        "alarm": signal.getsignal(signal.SIGALRM) == signal.SIG_IGN, "stack": threading.stack_size() != 0,
        "mask": bool(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "digits": sys.get_int_max_str_digits() == 0,
    }
    return [name for name, left in values.items() if left]
""",
    "threads": """
import signal, threading, time
def look():
    time.sleep(0.1)
    rings = signal.getitimer(signal.ITIMER_REAL)[0]
    return [thread.name for thread in threading.enumerate()[1:]] + ["alarm"] * (rings > 0)
""",
}

SETS = {
    "names": "helper = 1\nimport sys\nsys.modules['helper'] = sys\n",
    "settings": """
import decimal, sys, warnings
sys.setrecursionlimit(300)
sys.set_int_max_str_digits(700)
decimal.getcontext().prec = 3
warnings.simplefilter("error")
""",
    "chance": "import random\nrandom.random()\n",
    "folder and environment": "import os\nos.environ['LEFT'] = 'left'\nos.chdir('/')\n",
    "late modules": "import statistics\nstatistics.mean = len\n",
    "patched modules": "import math, string\nmath.pi = 3\nstring.digits = ''\n",
}
"""What a careless test does before it asks its program."""

SEES = {
    "names": "import sys\nassert 'helper' not in globals() and 'helper' not in sys.modules\n",
    "settings": """
import decimal, sys, warnings
assert sys.getrecursionlimit() >= 1000, sys.getrecursionlimit()
assert sys.get_int_max_str_digits() >= 4300, sys.get_int_max_str_digits()
assert decimal.getcontext().prec == 28, decimal.getcontext().prec
warnings.warn("only a warning")
""",
    "chance": "import random\nassert random.random() == random.Random(0).random()\n",
    "folder and environment": "import os\nassert 'LEFT' not in os.environ\n",
    "late modules": "import statistics\nassert statistics.mean([1, 3, 8]) == 4\n",
    "patched modules": "import math, string\nassert math.pi > 3 and string.digits\n",
}
"""What the next test must find as if it were the first."""
