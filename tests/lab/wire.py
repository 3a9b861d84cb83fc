"""A long wire between two interfaces, for kernels whose tc has no netem: it passes every frame on, later or never.

    nsenter --net=... python3 -IS wire.py ONE OTHER DELAY_MS LOSS_PERCENT
    nsenter --net=... python3 -IS wire.py offload INTERFACE 0|1

Standard library only, for the machine's own python3. Frames must come as they are on a real wire, with checksums and no
longer than the MTU: switch `offload` off where they enter.
"""

import fcntl
import heapq
import random
import select
import socket
import struct
import sys
import time

ALL_FRAMES = 3  # ETH_P_ALL
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


def main(one: str, other: str, delay: float, loss: float) -> None:
    ends = {attach(one): attach(other)}
    ends.update({there: here for here, there in ends.items()})
    chance = random.Random(0)
    due: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0
    while True:
        patience = max(0.0, due[0][0] - time.monotonic()) if due else None
        for end in select.select(list(ends), [], [], patience)[0]:
            try:
                frame = end.recv(70000)
            except OSError:  # the interface is down
                continue
            if chance.random() >= loss:
                number += 1
                heapq.heappush(due, (time.monotonic() + delay, number, ends[end], frame))
        while due and due[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(due)
            try:
                end.send(frame)
            except OSError:  # down, or its queue is full: a wire loses what does not fit
                continue


def attach(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    end.bind((interface, 0))
    return end


def offload(interface: str, value: int) -> None:
    """Lets an interface leave checksums and long segments to hardware, or not."""
    import array

    request = array.array("B", struct.pack("II", ETHTOOL_STXCSUM, value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCETHTOOL, struct.pack("16sP", interface.encode(), request.buffer_info()[0]))


if __name__ == "__main__":
    if sys.argv[1] == "offload":
        offload(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4]) / 100)
