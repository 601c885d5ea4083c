//! Tracked flows (ctnetlink): listed and ended.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_NETFILTER;
use viaduct_plan::{Flow, Tuple};

use crate::{
    attr::{self, find},
    error::{KernelError, Refusal},
    passed::packets_have_passed,
    socket::{Request, Socket},
};

// include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const GET_STATISTICS: u16 = SUBSYSTEM | 5;
const HEADER: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const NESTED: u16 = 1 << 15;

/// The connection to the tracker.
pub(crate) struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// That of the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let socket = Socket::open(NETLINK_NETFILTER)
            .map_err(|e| KernelError::system("opening a netfilter netlink socket", e))?;
        Ok(Self { socket })
    }

    /// The address of its socket.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// All flows.
    pub(crate) fn flows(&mut self) -> Result<Vec<Flow>, KernelError> {
        self.list(|flow, _| Some(flow), "listing tracked flows")
    }

    /// Ends the flows that `keep` does not want, and says how many.
    pub(crate) fn end(&mut self, keep: &dyn Fn(&Flow) -> bool, what: &str) -> Result<usize, KernelError> {
        packets_have_passed().map_err(|e| KernelError::system(what.to_owned(), e))?;
        // Only after that wait is none really none.
        if self.is_empty() {
            return Ok(0);
        }
        let doomed =
            self.list(|flow, message| if keep(&flow) { None } else { Some(deletion(message)) }, what)?;
        let answers = self.socket.batch(&doomed);
        match answers.into_iter().filter_map(Result::err).find(|refusal| refusal.errno != libc::ENOENT) {
            Some(refusal) => Err(KernelError::refused(what, refusal)),
            None => Ok(doomed.len()),
        }
    }

    /// Whether this namespace has no flow at all, as far as the kernel says. To list them it goes through a table of the
    /// whole machine's, some ten milliseconds when that is large, empty or not.
    fn is_empty(&mut self) -> bool {
        let request = Request::new(GET_STATISTICS, NLM_F_ACK, vec![0; HEADER]);
        let count = self.socket.ask(&request, |_, body| {
            let count = find(body.get(HEADER..)?, CTA_STATS_GLOBAL_ENTRIES)?;
            Some(u32::from_be_bytes(count.try_into().ok()?))
        });
        count.is_ok_and(|count| count == [0])
    }

    fn list<T>(
        &mut self,
        take: impl Fn(Flow, &[u8]) -> Option<T>,
        what: &str,
    ) -> Result<Vec<T>, KernelError> {
        // Family 0: both.
        let request = Request::new(GET, NLM_F_DUMP, vec![0; HEADER]);
        let found = self.socket.ask(&request, |_, body| take(read(body)?, body));
        match found {
            // No tracker in this kernel, or none loaded: no flows.
            Err(Refusal { errno: libc::EINVAL | libc::EOPNOTSUPP, .. }) if !is_tracking() => Ok(Vec::new()),
            Err(Refusal { errno: errno @ (libc::EINVAL | libc::EOPNOTSUPP), message: None }) => {
                let message = Some("is the module nf_conntrack_netlink there?".to_owned());
                Err(KernelError::refused(what, Refusal { errno, message }))
            }
            found => found.map_err(|refusal| KernelError::refused(what, refusal)),
        }
    }
}

fn is_tracking() -> bool {
    std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists()
}

/// The flow is named by its first direction and zone, and by its id, so that a new flow between the same ends that
/// took its place meanwhile lives.
fn deletion(message: &[u8]) -> Request {
    let (header, attributes) = message.split_at(HEADER.min(message.len()));
    let mut body = header.to_vec();
    for (kind, flag) in [(CTA_TUPLE_ORIG, NESTED), (CTA_ZONE, 0), (CTA_ID, 0)] {
        if let Some(value) = find(attributes, kind) {
            attr::put(&mut body, kind | flag, value);
        }
    }
    Request::new(DELETE, NLM_F_ACK, body)
}

fn read(message: &[u8]) -> Option<Flow> {
    let attributes = message.get(HEADER..)?;
    let (protocol, original) = tuple(find(attributes, CTA_TUPLE_ORIG)?)?;
    let (_, reply) = tuple(find(attributes, CTA_TUPLE_REPLY)?)?;
    Some(Flow { protocol, original, reply })
}

fn tuple(attributes: &[u8]) -> Option<(u8, Tuple)> {
    let ip = find(attributes, CTA_TUPLE_IP)?;
    let proto = find(attributes, CTA_TUPLE_PROTO)?;
    let address = |v4, v6| find(ip, v4).or_else(|| find(ip, v6)).and_then(attr::ip);
    let port = |kind| find(proto, kind).and_then(attr::be16).unwrap_or(0);
    let tuple = Tuple {
        source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    };
    Some((find(proto, CTA_PROTO_NUM).and_then(attr::u8)?, tuple))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_bytes_are_no_flow_and_no_panic() {
        for fill in [0_u8, 1, 4, 8, 0xff] {
            for len in 0..80 {
                assert!(read(&vec![fill; len]).is_none());
                let _ = deletion(&vec![fill; len]);
            }
        }
    }
}
