//! The ends of the traffic: a server in the guest, and clients outside that print what they measured. Each is this
//! program again, run in a machine's namespace.

use std::{
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::{Errno, IoSlice},
    net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg, sockopt},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use super::guests::PORT;

/// The program's subcommand for this.
pub(crate) const WORK: &str = "bench-work";

/// With IP and Ethernet headers a frame of 64 bytes.
const PAYLOAD: usize = 22;
/// The first byte of a datagram: what the server does with it.
const SINK: u8 = 0;
const ECHO: u8 = 1;
const COUNT: u8 = 2;
const BUSY: u8 = 3;
/// Datagrams per system call.
const BATCH: usize = 32;
/// What both ends use at once.
const THREADS: usize = 2;

type Done<T> = Result<T, String>;

/// `xtask bench-work serve`, or a kind of measurement with a place and milliseconds.
pub(crate) fn work(arguments: &[&str]) -> ExitCode {
    let done = match arguments {
        ["serve"] => serve(),
        [kind, place, time] => client(kind, place, time),
        _ => Err("wrong arguments".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn client(kind: &str, place: &str, time: &str) -> Done<()> {
    let place: SocketAddrV4 = place.parse().map_err(|_| format!("{place} is no address with a port"))?;
    stay_on(0);
    let time = Duration::from_millis(time.parse().map_err(|_| format!("{time} are no milliseconds"))?);
    let measured = match kind {
        "connections" => connections(place, time)?.into(),
        "answered" => datagrams(place, time, Flow::Answered)?.into(),
        "one-way" => datagrams(place, time, Flow::OneWay)?.into(),
        "round-trip" => vec![round_trip(place, time)?],
        _ => return Err(format!("what is {kind}?")),
    };
    for value in measured {
        println!("{value}");
    }
    Ok(())
}

/// Each end has a processor of its own: where the scheduler puts them decides more than what lies between them. With
/// one processor only it is not to be had.
fn stay_on(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    let _ = sched_setaffinity(None, &set);
}

/// Accepts and closes; counts and answers datagrams.
fn serve() -> Done<()> {
    stay_on(1);
    let listener =
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).map_err(|e| format!("cannot listen: {e}"))?;
    for _ in 0..THREADS {
        let listener = listener.try_clone().map_err(|e| format!("cannot listen: {e}"))?;
        thread::spawn(move || {
            loop {
                drop(listener.accept());
            }
        });
    }
    let socket = udp(PORT)?;
    println!("ready");
    let mut count = 0_u64;
    let mut buffer = [0; 64];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        match buffer[0] {
            SINK => count += 1,
            COUNT => {
                let _ = socket.send_to(&count.to_be_bytes(), from);
                count = 0;
            }
            BUSY => {
                let busy = u64::try_from(busy(ClockId::ProcessCPUTime).as_nanos()).unwrap_or(u64::MAX);
                let _ = socket.send_to(&busy.to_be_bytes(), from);
            }
            _ => {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    }
}

fn udp(port: u16) -> Done<UdpSocket> {
    let socket =
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| format!("cannot open a socket: {e}"))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20).map_err(|e| format!("its buffer: {e}"))?;
    Ok(socket)
}

fn udp_to(place: SocketAddrV4) -> Done<UdpSocket> {
    let socket = udp(0)?;
    socket.connect(place).map_err(|e| format!("{place}: {e}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).map_err(|e| e.to_string())?;
    Ok(socket)
}

/// New connections per second, and the microseconds of the processors' time that each takes at both ends, with all that
/// lies between them. Each is accepted, closed by the server, and seen closed; it ends with a reset, so that no end
/// keeps its port.
fn connections(place: SocketAddrV4, time: Duration) -> Done<[f64; 2]> {
    let control = udp_to(place)?;
    let both_busy = || -> Done<Duration> {
        Ok(Duration::from_nanos(ask(&control, BUSY)?) + busy(ClockId::ProcessCPUTime))
    };
    let busy_before = both_busy()?;
    let start = Instant::now();
    let one_after_the_other = move || -> Done<u64> {
        let mut made = 0;
        while start.elapsed() < time {
            let mut stream = TcpStream::connect(place).map_err(|e| format!("{place}: {e}"))?;
            match stream.read(&mut [0]) {
                Ok(0) => {}
                Ok(_) => return Err(format!("{place} talks")),
                Err(e) => return Err(format!("{place}: {e}")),
            }
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).map_err(|e| e.to_string())?;
            made += 1;
        }
        Ok(made)
    };
    let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(one_after_the_other)).collect();
    let mut made = 0;
    for thread in threads {
        made += thread.join().map_err(|_| "a thread panicked")??;
    }
    let elapsed = start.elapsed();
    Ok([rate(made, elapsed), 1e6 / rate(made, both_busy()?.saturating_sub(busy_before))])
}

/// Whether anything of a flow ever comes back: connection tracking takes it for established then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Answered,
    OneWay,
}

/// Thousands of datagrams per second that arrive, of as many as can be sent; and the nanoseconds of the sender's processor
/// that each of those sent takes. The sender's thread carries its datagrams through all namespaces to the guest's socket,
/// and its time is not longer for what else the machine does meanwhile.
fn datagrams(place: SocketAddrV4, time: Duration, flow: Flow) -> Done<[f64; 2]> {
    let control = udp_to(place)?;
    ask(&control, COUNT)?;
    let socket = udp_to(place)?;
    if flow == Flow::Answered {
        ask(&socket, ECHO)?;
        // With the second packet after the answer it is assured.
        ask(&socket, ECHO)?;
    }
    let payload = [SINK; PAYLOAD];
    let slices = [IoSlice::new(&payload)];
    let mut ancillary: Vec<SendAncillaryBuffer<'_, '_, '_>> =
        (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
    let mut batch: Vec<MMsgHdr<'_>> =
        ancillary.iter_mut().map(|ancillary| MMsgHdr::new(&slices, ancillary)).collect();
    let (start, busy_before) = (Instant::now(), busy(ClockId::ThreadCPUTime));
    let mut sent = 0;
    while start.elapsed() < time {
        match sendmmsg(&socket, &mut batch, SendFlags::empty()) {
            Ok(count) => sent += count,
            Err(Errno::INTR | Errno::NOBUFS) => {}
            Err(errno) => return Err(format!("{place}: {errno}")),
        }
    }
    let elapsed = start.elapsed();
    let busy = busy(ClockId::ThreadCPUTime).saturating_sub(busy_before);
    let sent = u64::try_from(sent).unwrap_or(u64::MAX);
    Ok([rate(ask(&control, COUNT)?, elapsed) / 1_000.0, 1e9 / rate(sent, busy)])
}

/// Sends one datagram that is answered, again if it must be, and says the number in the answer.
fn ask(socket: &UdpSocket, kind: u8) -> Done<u64> {
    let mut request = [0; PAYLOAD];
    request[0] = kind;
    let mut answer = [0; 64];
    for _ in 0..4 {
        socket.send(&request).map_err(|e| e.to_string())?;
        match socket.recv(&mut answer) {
            Ok(_) => {
                let mut number = [0; 8];
                number.copy_from_slice(&answer[..8]);
                return Ok(u64::from_be_bytes(number));
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("no answer to a datagram".to_owned())
}

/// The median time of a datagram and its answer, in microseconds.
fn round_trip(place: SocketAddrV4, time: Duration) -> Done<f64> {
    let socket = udp_to(place)?;
    let request = [ECHO; PAYLOAD];
    let mut answer = [0; 64];
    let mut times: Vec<Duration> = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        socket.send(&request).map_err(|e| e.to_string())?;
        socket.recv(&mut answer).map_err(|e| format!("no answer from {place}: {e}"))?;
        times.push(sent.elapsed());
    }
    times.sort();
    times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1e6).ok_or_else(|| "no round trip".to_owned())
}

/// The processor's time that this thread, or all of this process, has had.
fn busy(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "counts of some seconds")]
fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
