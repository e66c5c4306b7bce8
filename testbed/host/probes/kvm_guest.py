"""The assembled ``kvm_guest.S``, so that a host needs no assembler to be probed."""

from __future__ import annotations

import base64

STEPS = {
    "A": "protected mode",
    "B": "long mode",
    "C": "vector units",
    "D": "model-specific registers",
    "E": "exceptions and paging",
    "F": "user mode and system calls",
    "G": "timer interrupts",
    "H": "the speed of a processor",
}
"""What the guest has done once it has written the letter."""

EXIT_STATUS = 2 * 0x2A + 1
"""QEMU's exit status when the guest came to its end (isa-debug-exit)."""

PROGRAM = base64.b64decode(
    "ArCtGwAAAQD+T1HkAAAQAAAAEAAAAAAAAAAAAFgAEAAAAAAAAAAAAAAAAAAAmiAAAAAAAACSAAAAAAAAAPIAAAAAAAAA+iAAJwAg"
    "ABAA/w8AACEAAAAAAPq8AAAiALBB5ukPARVIABAA/L8AACAAuQCAAAAxwPOrxwUAACAABxAgAMcFABAgAAcgIADHBQgQIAAHMCAA"
    "xwUQECAAB0AgAMcFGBAgAAdQIAC/ACAgALiHAAAAiQeDxwgFAAAgAHP0DyDgDaAGAAAPIuC4AAAgAA8i2LmAAADADzINAQkAAA8w"
    "DyDAg+DzDSMAAYAPIsDq9gAQAAgAuBAAAACO2I7AjtCwQubpuAYAAADyDyrAZg8oyPIPWcjyDy3Bg/gkD4UAAgAAuAEAAAAPooHh"
    "AAAAFIH5AAAAFHU0DyDgDQAABAAPIuAxyTHSuAcAAAAPAdHF6XbSxONtGNIBxON9GdMBxfl+2IP4/w+FtwEAALBD5um4eFY0EjHS"
    "uQIBAMAPMLkBAQDAMcAPMA8B+A8yPXhWNBIPhYwBAACwRObpuCcDEAC/MAAhAGaJB2bHRwIIAGbHRwQAjsHoEGaJRwbHRwgAAAAA"
    "x0cMAAAAALgsAxAAv+AAIQBmiQdmx0cCCABmx0cEAI7B6BBmiUcGx0cIAAAAAMdHDAAAAAC4SAMQAL8ABCEAZokHZsdHAggAZsdH"
    "BACOwegQZolHBsdHCAAAAADHRwwAAAAADwEcJU4AEABFMf/MQYP/AQ+F6AAAAEi7AAAQQAEAAACBOwKwrRsPhdIAAABBg/8CD4XI"
    "AAAAsEXm6bmBAADAMcC6CAAQAA8wuYIAAMC4oAIQADHSDzC5hAAAwLgAAgAADzBqG2gA8CEAagJqI2iZAhAASM9BjM4PBQ8LvAAA"
    "IgBBg/4jdXiwRubpsP/mIeahuwAA4P7Hg/AAAAD/AQAAx4MgAwAAQAACAMeD4AMAAAsAAADHg4ADAABAQg8ARTHt+/T6QYP9FHL3"
    "x4MgAwAAAAABALBH5um+0AcAAA8g2A8i2A8BOzHAD6L/znXvuQDh9QX/yXX8sEjm6bAq5vT69Ov8Qf/HSM9Ig8QIDyDQSDnDdevH"
    "BCUoECAAByAgAEH/x0jPQf/Fx4OwAAAAAAAAAEjP"
)
