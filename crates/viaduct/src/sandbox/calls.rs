//! The system calls that a process may make (seccomp(2)). All others fail with EPERM: who is refused something that a
//! library tries and can do without goes on.

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Whose calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    /// The process's that answers guests: packet sockets, and UDP and TCP for names. It opens nothing else, and has one
    /// thread.
    Answering,
    /// The process's that carries vnets: taps, UDP, the kernel's bridges by rtnetlink, a unix socket on which it is told
    /// what to do, two files, and threads.
    Carrying,
    /// The process's that looks up a name: files, and UDP and TCP to name servers.
    LookingUp,
}

/// A condition of one argument; the mask says which of its bits count.
struct Is {
    argument: u8,
    mask: u64,
    value: u64,
}

/// The type of a socket, without its flags.
const TYPE: u64 = 0xf;
const ALL: u64 = 0xffff_ffff;

impl Calls {
    /// Limits this thread and those that it makes. Says whether the kernel can.
    pub(super) fn confine(self) -> io::Result<bool> {
        let Ok(processor) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(false) };
        let refused = |error: seccompiler::Error| io::Error::other(format!("seccomp: {error}"));
        for program in self.programs(processor).map_err(|error| refused(error.into()))? {
            match apply_filter(&program) {
                Ok(()) => {}
                // It has none (seccomp(2)).
                Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error))
                    if [libc::EINVAL, libc::ENOSYS].map(Some).contains(&error.raw_os_error()) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(true)
    }

    /// Of several, the strictest counts.
    fn programs(self, processor: TargetArch) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
        let mut programs = vec![self.program(processor)?];
        if self == Self::Carrying {
            // What it is to do stands in memory, where no filter looks; who is told that there is no such call
            // takes the older one (clone(2)).
            let none = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
            let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
            programs
                .insert(0, SeccompFilter::new(none, SeccompAction::Allow, missing, processor)?.try_into()?);
        }
        Ok(programs)
    }

    fn program(self, processor: TargetArch) -> Result<BpfProgram, seccompiler::BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in self.always() {
            rules.insert(call, Vec::new());
        }
        for (call, ways) in self.conditional() {
            let ways = ways.iter().map(|conditions| {
                let conditions = conditions.iter().map(|is| {
                    SeccompCondition::new(is.argument, Dword, SeccompCmpOp::MaskedEq(is.mask), is.value)
                });
                SeccompRule::new(conditions.collect::<Result<_, _>>()?)
            });
            rules.insert(call, ways.collect::<Result<_, _>>()?);
        }
        let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        SeccompFilter::new(rules, refusal, SeccompAction::Allow, processor)?.try_into()
    }

    /// Calls that may be made whatever their arguments.
    fn always(self) -> Vec<i64> {
        let mut calls = MEMORY_TIME_AND_ENDS.to_vec();
        match self {
            Self::Answering => calls.extend(SOCKETS),
            Self::Carrying => {
                calls.extend(SOCKETS);
                calls.extend(CARRYING);
            }
            Self::LookingUp => {
                calls.extend(SOCKETS);
                calls.extend(LOOKING_UP);
            }
        }
        calls
    }

    /// Calls that may be made in one of these ways.
    fn conditional(self) -> Vec<(i64, Vec<Vec<Is>>)> {
        let mut calls = vec![
            // Nothing that was written is executed.
            (libc::SYS_mmap, vec![vec![without(2, libc::PROT_EXEC)]]),
            (libc::SYS_mprotect, vec![vec![without(2, libc::PROT_EXEC)]]),
        ];
        match self {
            Self::Answering => {
                let packets = vec![is(0, libc::AF_PACKET), kind(libc::SOCK_RAW)];
                let of = |family, of_kind, protocol| vec![is(0, family), kind(of_kind), is(2, protocol)];
                let mut sockets = vec![packets];
                for family in [libc::AF_INET, libc::AF_INET6] {
                    for (of_kind, protocol) in
                        [(libc::SOCK_DGRAM, libc::IPPROTO_UDP), (libc::SOCK_STREAM, libc::IPPROTO_TCP)]
                    {
                        sockets.extend([of(family, of_kind, 0), of(family, of_kind, protocol)]);
                    }
                }
                let options = OPTIONS.map(|(level, option)| vec![is(1, level), is(2, option)]);
                calls.extend([
                    (libc::SYS_socket, sockets),
                    (libc::SYS_setsockopt, options.into()),
                    (libc::SYS_ioctl, [FIONBIO, SIOCGIFINDEX].map(|request| vec![is(1, request)]).into()),
                ]);
            }
            Self::Carrying => {
                let of = |family, of_kind| vec![is(0, family), kind(of_kind)];
                // The two kinds are the same (netlink(7)); the C library takes the first to list addresses.
                let routes =
                    |of_kind| vec![is(0, libc::AF_NETLINK), kind(of_kind), is(2, libc::NETLINK_ROUTE)];
                let sockets = vec![
                    of(libc::AF_INET, libc::SOCK_DGRAM),
                    of(libc::AF_INET6, libc::SOCK_DGRAM),
                    of(libc::AF_UNIX, libc::SOCK_STREAM),
                    of(libc::AF_UNIX, libc::SOCK_DGRAM),
                    routes(libc::SOCK_RAW),
                    routes(libc::SOCK_DGRAM),
                ];
                let thread = bits(libc::CLONE_THREAD);
                let thread = vec![vec![Is { argument: 0, mask: thread, value: thread }]];
                calls.extend([
                    (libc::SYS_socket, sockets),
                    (libc::SYS_socketpair, vec![of(libc::AF_UNIX, libc::SOCK_STREAM)]),
                    (libc::SYS_clone, thread),
                    // The calling thread's own: nobody else comes first or later by it.
                    (libc::SYS_setpriority, vec![vec![is(0, PRIO_PROCESS), is(1, 0)]]),
                    (
                        libc::SYS_sched_setscheduler,
                        [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_RR]
                            .map(|policy| vec![is(0, 0), is(1, policy)])
                            .into(),
                    ),
                    (libc::SYS_ioctl, TAP.map(|request| vec![is(1, request)]).into()),
                ]);
            }
            Self::LookingUp => {
                let of = |family, of_kind| vec![is(0, family), kind(of_kind)];
                let sockets = vec![
                    of(libc::AF_INET, libc::SOCK_DGRAM),
                    of(libc::AF_INET6, libc::SOCK_DGRAM),
                    of(libc::AF_INET, libc::SOCK_STREAM),
                    of(libc::AF_INET6, libc::SOCK_STREAM),
                    // To a cache of names, and for what addresses this host has.
                    of(libc::AF_UNIX, libc::SOCK_STREAM),
                    vec![is(0, libc::AF_NETLINK), kind(libc::SOCK_RAW), is(2, libc::NETLINK_ROUTE)],
                ];
                let ioctls = [FIONBIO, FIONREAD].map(|request| vec![is(1, request)]).into();
                calls.extend([(libc::SYS_socket, sockets), (libc::SYS_ioctl, ioctls)]);
            }
        }
        calls
    }
}

/// What the C library does beside when it looks up a name (getaddrinfo(3)).
const LOOKING_UP: &[i64] = &[
    libc::SYS_setsockopt,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// What every program does: memory, time, waiting, signals' ends and its own end.
const MEMORY_TIME_AND_ENDS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
];

/// What is done with sockets, and waiting for them.
const SOCKETS: &[i64] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// What the process that carries vnets does beside: messages in batches, files, threads.
const CARRYING: &[i64] = &[
    libc::SYS_setsockopt,
    libc::SYS_accept,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_flock,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_uname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// Non-blocking or not; a device's index; what is set of a tap (linux/if_tun.h).
const TAP: [i32; 6] = [FIONBIO, SIOCGIFINDEX, SIOCSIFTXQLEN, 0x4004_54ca, 0x4004_54d0, TUNGETIFF];
const TUNGETIFF: i32 = 0x8004_54d2_u32.cast_signed();
const SIOCSIFTXQLEN: i32 = 0x8943;

/// What is set of sockets: level and option.
const OPTIONS: [(i32, i32); 9] = [
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP),
    (libc::SOL_PACKET, libc::PACKET_VERSION),
    (libc::SOL_PACKET, libc::PACKET_RX_RING),
];

/// Non-blocking or not; how much there is to read; the index of a device.
const FIONBIO: i32 = 0x5421;
const FIONREAD: i32 = 0x541b;
const SIOCGIFINDEX: i32 = 0x8933;

/// What a priority is of (sys/resource.h): in the C libraries it has different types.
const PRIO_PROCESS: i32 = 0;

fn is(argument: u8, value: i32) -> Is {
    Is { argument, mask: ALL, value: bits(value) }
}

fn without(argument: u8, of: i32) -> Is {
    Is { argument, mask: bits(of), value: 0 }
}

fn kind(of: i32) -> Is {
    Is { argument: 1, mask: TYPE, value: bits(of) }
}

/// As the kernel gets an int: a negative one, such as an ioctl's number from 2^31 on, is no amount.
fn bits(value: i32) -> u64 {
    value.cast_unsigned().into()
}
