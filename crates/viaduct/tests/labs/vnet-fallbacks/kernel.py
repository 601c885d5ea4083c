"""A kernel that does less than this one.

older DAEMON ENGINE: ends a daemon and its process that carries vnets, and goes on in the daemon's place as that was started,
on a kernel without UDP_GRO (Linux before 5.0) and USO (before 6.2): a filter refuses what asks for them, as such a kernel does.
uncut ENGINE: has the kernel not cut what the process sends, as without checksums. small ENGINE BYTES: has each of its ports hold
so much. take PORT FILE, give ADDRESS PORT BYTES: a transfer by TCP. flood ADDRESS COUNT:
datagrams, as fast as they go."""
import ctypes
import os
import platform
import select
import signal
import socket
import struct
import sys

SETSOCKOPT, IOCTL, PIDFD_GETFD = {"x86_64": (54, 16, 438), "aarch64": (208, 29, 438)}[platform.machine()]
LIBC = ctypes.CDLL(None, use_errno=True)
SOL_UDP, NO_CHECK6_TX, UDP_GRO = 17, 101, 104
SO_NO_CHECK, SO_RCVBUFFORCE = 11, 33
TUNSETOFFLOAD, USO = 0x400454D0, 0x20 | 0x40


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def refuse():
    """Classic BPF over struct seccomp_data: the call's number at 0, its arguments from 16 on, 8 bytes each."""
    load, equal, any_of, end = 0x20, 0x15, 0x45, 0x06
    refused, allowed = 0x00050000 | 22, 0x7FFF0000
    program = [
        (load, 0, 0, 0),
        (equal, 0, 4, SETSOCKOPT),
        (load, 0, 0, 24),
        (equal, 0, 8, SOL_UDP),
        (load, 0, 0, 32),
        (equal, 5, 6, UDP_GRO),
        (equal, 0, 5, IOCTL),
        (load, 0, 0, 24),
        (equal, 0, 3, TUNSETOFFLOAD),
        (load, 0, 0, 32),
        (any_of, 0, 1, USO),
        (end, 0, 0, refused),
        (end, 0, 0, allowed),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    check(LIBC.prctl(38, 1, 0, 0, 0))
    check(LIBC.prctl(22, 2, filter, 0, 0))


def older(daemon, engine):
    def words(what):
        with open(f"/proc/{daemon}/{what}", "rb") as file:
            return file.read().split(b"\0")[:-1]

    command, environment = words("cmdline"), dict(pair.split(b"=", 1) for pair in words("environ"))
    for process in int(daemon), int(engine):
        ends = os.pidfd_open(process)
        os.kill(process, signal.SIGKILL)
        select.select([ends], [], [])
    refuse()
    os.execve(command[0], command, environment)


def ports(engine):
    """The UDP sockets that it has, as ours."""
    process = os.pidfd_open(int(engine))
    for number in os.listdir(f"/proc/{engine}/fd"):
        if os.readlink(f"/proc/{engine}/fd/{number}").startswith("socket:"):
            found = socket.socket(fileno=check(LIBC.syscall(PIDFD_GETFD, process, int(number), 0)))
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.proto == socket.IPPROTO_UDP:
                yield found


def uncut(engine):
    for port in ports(engine):
        port.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        port.setsockopt(SOL_UDP, NO_CHECK6_TX, 1)


def small(engine, length):
    for port in ports(engine):
        port.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, int(length))


def take(port, file):
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    open(file, "w").close()
    connection, _ = listener.accept()
    length = 0
    while data := connection.recv(1 << 16):
        length += len(data)
    with open(file, "w") as result:
        print(length, file=result)


def give(address, port, length):
    with socket.create_connection((address, int(port))) as connection:
        connection.sendall(bytes(int(length)))


def flood(address, count):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(int(count)):
            sender.sendto(bytes(1000), (address, 999))


globals()[sys.argv[1]](*sys.argv[2:])
