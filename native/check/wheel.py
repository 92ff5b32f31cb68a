"""Run after a wheel was built, in an environment that holds nothing else: does it load, and do its levels agree?"""

import torchveil_native as native

LEVELS = ("portable", "avx2", "avx512")
top = native.level()
x = bytes(range(256)) * 4
found = set()
for level in LEVELS[: LEVELS.index(top) + 1]:
    if not native.set_level(level):
        raise SystemExit(f"the level {level} is not to be had, though {top} is")
    out = bytearray(len(x))
    native.divide(out, x, 1000, 1)
    native.xor_pieces(out, (bytes(out), x), 1)
    found.add(bytes(out))
expected = b"".join(
    (int.from_bytes(x[i : i + 8], "little") // 1000 ^ int.from_bytes(x[i : i + 8], "little")).to_bytes(8, "little")
    for i in range(0, len(x), 8)
)
if found != {expected}:
    raise SystemExit("the levels disagree")
print(top, native.features())
