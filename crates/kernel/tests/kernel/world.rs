//! What the tests stand on: namespaces, a kernel to look at and change, a guest.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use viaduct_kernel::{Kernel, KernelError, Netns};
use viaduct_plan::{Address, AddressInfo, Apply, Ask, Kind, LinkChange, NewLink, Observe, Observed, Op};
use viaduct_types::{IfName, IpNet, MacAddr};

/// Does the test in a new namespace, on a thread of its own.
pub(crate) fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn unshare() {
    // SAFETY: only this thread's network namespace changes.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .expect("these tests make network namespaces and need root");
}

/// A kernel in the calling thread's namespace, with a state directory that goes with it.
pub(crate) struct World {
    pub(crate) kernel: Kernel,
    pub(crate) directory: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("viaduct-kernel-{}-{number}", std::process::id()));
        let kernel = Kernel::new(&directory).unwrap();
        Self { kernel, directory }
    }

    pub(crate) fn try_apply(&mut self, ops: &[Op]) -> Vec<Result<(), KernelError>> {
        self.kernel.apply(ops, &|_, _| true, &mut |_| {})
    }

    /// Every step succeeds.
    #[track_caller]
    pub(crate) fn apply(&mut self, ops: &[Op]) {
        for (result, op) in self.try_apply(ops).into_iter().zip(ops) {
            if let Err(error) = result {
                panic!("{op:?}\n{error}");
            }
        }
    }

    /// The only step fails.
    #[track_caller]
    pub(crate) fn refuse(&mut self, op: Op) -> String {
        let result = self.try_apply(&[op]).pop().unwrap();
        result.expect_err("the step should have failed").to_string()
    }

    #[track_caller]
    pub(crate) fn observe(&mut self) -> Observed {
        self.kernel.observe(&Ask::default()).unwrap()
    }

    #[track_caller]
    pub(crate) fn addresses(&mut self, link: &str) -> BTreeMap<IpNet, AddressInfo> {
        let all = self.observe().addresses;
        all.into_iter().filter(|(a, _)| a.link.as_str() == link).map(|(a, info)| (a.address, info)).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A namespace with nothing in it but a thread that waits.
pub(crate) struct Guest {
    pub(crate) netns: Netns,
    end: mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            unshare();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            tell.send(format!("/proc/{}/task/{tid}/ns/net", std::process::id())).unwrap();
            let _ = ended.recv();
        });
        let path = told.recv().expect("these tests make network namespaces and need root");
        Self { netns: Netns::open(&path).unwrap(), end, thread: Some(thread) }
    }

    pub(crate) fn path(&self) -> String {
        self.netns.path().to_owned()
    }

    /// Ends the thread; the namespace goes when nothing else holds it.
    pub(crate) fn end(&mut self) {
        let _ = self.end.send(());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn mac(last: u8) -> MacAddr {
    MacAddr::derived(0, 7, last)
}

pub(crate) fn bridge(text: &str) -> Op {
    Op::AddLink {
        name: name(text),
        link: NewLink::Bridge,
        alias: format!("viaduct:network:{text}"),
        mac: Some(mac(0xee)),
        mtu: None,
    }
}

/// A pair whose far end is `eth0` in the guest.
pub(crate) fn veth(text: &str, guest: &Guest) -> Op {
    Op::AddLink {
        name: name(text),
        link: NewLink::Veth { netns: guest.path(), peer: name("eth0"), peer_mac: mac(1) },
        alias: format!("viaduct:nic:{text}"),
        mac: None,
        mtu: None,
    }
}

pub(crate) fn set(text: &str, change: LinkChange) -> Op {
    Op::SetLink { name: name(text), change }
}

pub(crate) fn up(text: &str) -> Op {
    set(text, LinkChange::Up(true))
}

pub(crate) fn address(link: &str, address: &str) -> Op {
    Op::AddAddress { address: at(link, address), scope: 0, protocol: viaduct_plan::PROTOCOL }
}

pub(crate) fn at(link: &str, address: &str) -> Address {
    Address { link: name(link), address: net(address) }
}

pub(crate) fn is_kind(observed: &Observed, link: &str, kind: &Kind) -> bool {
    observed.links.get(link).is_some_and(|l| l.kind == *kind)
}
