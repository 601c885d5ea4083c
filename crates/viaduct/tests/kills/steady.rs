//! A connection that no change is about.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use crate::{
    policy::{STEADY, STEADY_PORT},
    prober::inside,
};

/// Both ends of it: outside, and in the guest.
pub(crate) struct Steady {
    outside: TcpStream,
    guest: TcpStream,
    count: u32,
}

impl Steady {
    pub(crate) fn new() -> Self {
        let listener = inside("steady", || TcpListener::bind(("0.0.0.0", STEADY_PORT)).unwrap());
        let address = SocketAddr::new(STEADY, STEADY_PORT);
        let outside =
            inside("outside", move || TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap());
        let (guest, _) = listener.accept().unwrap();
        for stream in [&outside, &guest] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        Self { outside, guest, count: 0 }
    }

    /// Something is said in both directions.
    pub(crate) fn lives(&mut self) -> Result<(), String> {
        self.count += 1;
        let said = self.count.to_be_bytes();
        for (from, to) in [(&self.outside, &self.guest), (&self.guest, &self.outside)] {
            let (mut from, mut to) = (from, to);
            let mut heard = [0; 4];
            let done = from.write_all(&said).and_then(|()| to.read_exact(&mut heard));
            done.map_err(|error| format!("the connection that nothing is about has ended: {error}"))?;
            if heard != said {
                return Err("the connection that nothing is about says something else".to_owned());
            }
        }
        Ok(())
    }
}
