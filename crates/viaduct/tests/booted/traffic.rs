//! Traffic that notices every packet that is lost.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::machine::there;

/// A thread that is not scheduled for a while loses nothing.
const BUFFER: usize = 16 << 20;
/// Between two datagrams.
const PACE: Duration = Duration::from_millis(1);
/// What is not answered by then is lost.
const LATE: Duration = Duration::from_secs(5);

/// 1,000 datagrams a second, and a connection that is never idle, from a namespace to a server.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    datagrams: JoinHandle<(u64, u64)>,
    exchanges: JoinHandle<u64>,
}

impl Traffic {
    /// Begins.
    pub(crate) fn start(client: &str, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, too) = (Arc::clone(&stop), Arc::clone(&stop));
        let datagrams = there(client, move || send(to, &until));
        let exchanges = there(client, move || exchange(to, &too));
        Self { stop, datagrams, exchanges }
    }

    /// Ends it: all datagrams came back, and the connection is alive.
    #[track_caller]
    pub(crate) fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, back) = self.datagrams.join().expect("the stream of datagrams broke");
        let exchanges = self.exchanges.join().expect("the connection broke");
        assert!(sent > 300, "there was hardly any traffic: {sent} datagrams");
        assert!(exchanges > 20, "there was hardly any traffic: {exchanges} exchanges");
        assert_eq!(sent - back, 0, "of {sent} datagrams so many were lost");
    }
}

/// Echoes what comes to a namespace, for as long as the test runs.
pub(crate) fn serve(netns: &str, port: u16) {
    let sockets = there(netns, move || {
        (UdpSocket::bind(("0.0.0.0", port)).unwrap(), TcpListener::bind(("0.0.0.0", port)).unwrap())
    });
    let (datagrams, connections) = sockets.join().unwrap();
    set_socket_recv_buffer_size_force(&datagrams, BUFFER).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(&buffer[..length], from);
        }
    });
    thread::spawn(move || {
        for mut connection in connections.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = connection.read(&mut buffer) {
                    let _ = connection.write_all(&buffer[..length]);
                }
            });
        }
    });
}

/// How many datagrams were sent, and how many different ones came back.
fn send(to: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    set_socket_recv_buffer_size_force(&socket, BUFFER).unwrap();
    socket.connect(to).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 8];
    let mut came = std::collections::BTreeSet::new();
    let mut hear = || {
        while let Ok(8) = socket.recv(&mut buffer) {
            came.insert(u64::from_be_bytes(buffer));
        }
        came.len() as u64
    };
    let begin = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        if socket.send(&u64::to_be_bytes(sent)).is_ok() {
            sent += 1;
        }
        hear();
        let next = begin + PACE * u32::try_from(sent).unwrap();
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let end = Instant::now();
    while hear() < sent && end.elapsed() < LATE {
        thread::sleep(PACE);
    }
    (sent, hear())
}

/// How many times a connection carried something there and back.
fn exchange(to: SocketAddr, stop: &AtomicBool) -> u64 {
    let mut connection = TcpStream::connect_timeout(&to, LATE).unwrap();
    connection.set_read_timeout(Some(LATE)).unwrap();
    let mut buffer = [0; 4];
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        connection.write_all(b"ping").unwrap();
        connection.read_exact(&mut buffer).unwrap();
        done += 1;
        thread::sleep(Duration::from_millis(10));
    }
    done
}
