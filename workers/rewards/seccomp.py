"""A system-call filter for code that may compute and nothing else, in pure Python, for Linux on x86-64 and AArch64.

The filter allows what an interpreter needs to run and to read files. Everything else is denied because it is not on the
list: opening files for writing and every other change to the file system, sockets, new processes and programs, signals
to other processes, and raising the process's own limits. A denied call fails with ENOSYS, like a call that the kernel
does not know, so that C libraries do what they do on older kernels. See seccomp(2).
"""

import ctypes
import os
import platform
import struct

ALLOWED = """
    read:0:63 write:1:64 close:3:57 fstat:5:80 lseek:8:62 mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214
    rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 ioctl:16:29 pread64:17:67 pwrite64:18:68
    readv:19:65 writev:20:66 sched_yield:24:124 mremap:25:216 madvise:28:233 dup:32:23 nanosleep:35:101
    getitimer:36:102 setitimer:38:103 getpid:39:172 sendto:44:206 recvfrom:45:207 socketpair:53:199 exit:60:93
    uname:63:160 fcntl:72:25 getcwd:79:17 gettimeofday:96:169 getrusage:98:165 sysinfo:99:179 times:100:153
    getuid:102:174 getgid:104:176 geteuid:107:175 getegid:108:177 getppid:110:173 sigaltstack:131:132
    gettid:186:178 futex:202:98 sched_getaffinity:204:123 getdents64:217:61 set_tid_address:218:96
    clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 exit_group:231:94 epoll_ctl:233:21
    newfstatat:262:79 readlinkat:267:78 faccessat:269:48 pselect6:270:72 ppoll:271:73 set_robust_list:273:99
    epoll_pwait:281:22 eventfd2:290:19 epoll_create1:291:20 dup3:292:24 pipe2:293:59 getrandom:318:278
    membarrier:324:283 statx:332:291 rseq:334:293 faccessat2:439:439 stat:4: lstat:6: poll:7: access:21:
    pipe:22: select:23: dup2:33: readlink:89: arch_prctl:158: time:201: epoll_wait:232:
"""
"""Calls that are always allowed: name, number on x86-64, number on AArch64 (kernel headers `unistd_64.h`)."""
JUDGED = "open:2: openat:257:56 clone:56:220 tgkill:234:131 prlimit64:302:261"
"""Calls that are allowed for some arguments."""
AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ENOSYS, EACCES = 38, 13
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
"""BPF instructions: load a word of `struct seccomp_data`; jump if it equals; jump if it has any of the bits; return."""
NUMBER, AUDIT_ARCH = 0, 4
CLONE_THREAD = 0x10000


class FilterUnavailableError(OSError):
    """This system cannot filter system calls."""


def supported() -> bool:
    """Whether there is a list of calls for this system."""
    return platform.system() == "Linux" and platform.machine() in AUDIT_ARCHITECTURES


def install() -> None:
    """Filters the calls of this process from now on, which cannot be undone.

    Raises:
        FilterUnavailableError: The kernel refused the filter.
    """
    program = _program(platform.machine())
    instructions = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)):
        if libc.prctl(*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)):
            error = ctypes.get_errno()
            raise FilterUnavailableError(error, f"prctl {arguments[0]}: {os.strerror(error)}")


def _program(machine: str) -> list[bytes]:
    """The instructions of the filter.

    A call from another architecture's table ends the process. x32 calls on x86-64 have numbers that no list has.
    """
    program = [
        _instruction(LOAD, AUDIT_ARCH),
        _instruction(EQUAL, AUDIT_ARCHITECTURES[machine], skip_if=1),
        _instruction(RETURN, KILL_PROCESS),
        _instruction(LOAD, NUMBER),
    ]
    for number in _numbers(ALLOWED, machine).values():
        program += _judged(number, [_instruction(RETURN, ALLOW)])
    judged = _numbers(JUDGED, machine)
    changing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    if "open" in judged:
        program += _judged(judged["open"], _allowed_unless(1, changing))
    program += _judged(judged["openat"], _allowed_unless(2, changing))
    program += _judged(judged["clone"], _allowed_if(0, CLONE_THREAD, ANY_BIT))
    program += _judged(judged["tgkill"], _allowed_if(0, os.getpid(), EQUAL))
    program += _judged(judged["prlimit64"], _allowed_if_null(2))
    return [*program, _instruction(RETURN, ERRNO | ENOSYS)]


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = list(AUDIT_ARCHITECTURES).index(machine)
    rows = [entry.split(":") for entry in table.split()]
    return {name: int(numbers[column]) for name, *numbers in rows if numbers[column]}


def _judged(number: int, body: list[bytes]) -> list[bytes]:
    """Instructions that run `body`, which always returns, for the call `number`."""
    return [_instruction(EQUAL, number, skip_unless=len(body)), *body]


def _allowed_unless(argument: int, bits: int) -> list[bytes]:
    return [
        _instruction(LOAD, _low_word(argument)),
        _instruction(ANY_BIT, bits, skip_unless=1),
        _instruction(RETURN, ERRNO | EACCES),
        _instruction(RETURN, ALLOW),
    ]


def _allowed_if(argument: int, value: int, comparison: int) -> list[bytes]:
    return [
        _instruction(LOAD, _low_word(argument)),
        _instruction(comparison, value, skip_unless=1),
        _instruction(RETURN, ALLOW),
        _instruction(RETURN, ERRNO | ENOSYS),
    ]


def _allowed_if_null(argument: int) -> list[bytes]:
    low = _low_word(argument)
    return [
        _instruction(LOAD, low),
        _instruction(EQUAL, 0, skip_unless=3),
        _instruction(LOAD, low + 4),
        _instruction(EQUAL, 0, skip_unless=1),
        _instruction(RETURN, ALLOW),
        _instruction(RETURN, ERRNO | ENOSYS),
    ]


def _low_word(argument: int) -> int:
    """Offset of an argument's low word in `struct seccomp_data`; both architectures are little-endian."""
    return 16 + 8 * argument


def _instruction(code: int, value: int, *, skip_if: int = 0, skip_unless: int = 0) -> bytes:
    """One `struct sock_filter`."""
    return struct.pack("HBBI", code, skip_if, skip_unless, value)
