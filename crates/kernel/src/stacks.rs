//! The stacks of namespaces that networks are in. Each has a kernel of its own, whose sockets were opened there and stay
//! there; what it does goes by a thread in the namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use viaduct_plan::{Apply, Ask, Features, Keep, Observe, Observed, Op, is_bare};
use viaduct_types::NamespaceName;

use crate::{Kernel, error::KernelError, namespaces, netns::Netns};

/// The kernels of stacks. What each remembers is in a directory of the namespace's name and, below it, of the namespace's
/// inode number: another one of the name is another. That there is a directory says where to look for something of ours.
pub(crate) struct Stacks {
    directory: PathBuf,
    open: BTreeMap<NamespaceName, Stack>,
}

struct Stack {
    inode: u64,
    kernel: Kernel,
}

impl Stacks {
    pub(crate) fn open(run_dir: &Path) -> Self {
        Self { directory: run_dir.join("stacks"), open: BTreeMap::new() }
    }

    fn names(&self) -> BTreeSet<NamespaceName> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Does something with the kernel of the namespace that has the name now, on a thread in there.
    pub(crate) fn with<T: Send>(
        &mut self,
        name: &NamespaceName,
        work: impl FnOnce(&mut Kernel) -> T + Send,
    ) -> Result<T, KernelError> {
        let mut results = self.with_each(vec![(name, work)], |kernel, work| work(kernel), &mut |_| ());
        results.swap_remove(0)
    }

    /// Does something with the kernel of each of several namespaces, of some at the same time: much of what is done there is
    /// to wait for the kernel. `finished` hears of each job by its place. A name must not be there twice.
    pub(crate) fn with_each<J: Send, T: Send>(
        &mut self,
        jobs: Vec<(&NamespaceName, J)>,
        work: impl Fn(&mut Kernel, J) -> T + Sync,
        finished: &mut dyn FnMut(usize),
    ) -> Vec<Result<T, KernelError>> {
        let names: Vec<&NamespaceName> = jobs.iter().map(|(name, _)| *name).collect();
        let threads = jobs.len().min(THREADS);
        let waiting: Vec<_> = jobs
            .into_iter()
            .enumerate()
            .map(|(number, (name, job))| (number, name, self.open.remove(name), job))
            .collect();
        let (directory, waiting) = (&self.directory, Mutex::new(waiting.into_iter()));
        let (sender, receiver) = mpsc::channel();
        // The lock is held only to take a job out.
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (next, work) = (&next, &work);
        let do_all = |sender: mpsc::Sender<_>| {
            while let Some((number, name, known, job)) = next() {
                let done = enter(directory, name, known, |kernel| work(kernel, job));
                if sender.send((number, done)).is_err() {
                    return;
                }
            }
        };
        let mut results: Vec<Option<_>> = names.iter().map(|_| None).collect();
        let mut problem = None;
        thread::scope(|scope| {
            for _ in 0..threads {
                let sender = sender.clone();
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, move || do_all(sender)) {
                    // Those that there are do it all.
                    problem = Some(error);
                    break;
                }
            }
            // So that nothing is waited for when all have ended, however they did.
            drop(sender);
            for (number, done) in receiver {
                if let Some(result) = results.get_mut(number) {
                    *result = Some(done);
                }
                finished(number);
            }
        });
        let no_thread = KernelError::system(
            "starting a thread for a namespace",
            problem.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN)),
        );
        let results = names.into_iter().zip(results);
        results
            .map(|(name, done)| {
                let (stack, result) = done.unwrap_or_else(|| Err(no_thread.clone()))?;
                self.open.insert(name.clone(), stack);
                Ok(result)
            })
            .collect()
    }

    /// Closes what is open in a namespace, so that nothing of ours keeps it, and forgets it.
    pub(crate) fn forget(&mut self, name: &NamespaceName) {
        self.open.remove(name);
        // What is left only costs a look.
        let _ = fs::remove_dir_all(self.directory.join(name.as_str()));
    }

    /// The addresses of their sockets.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (NamespaceName, Vec<u32>)> {
        self.open.iter().map(|(name, stack)| (name.clone(), stack.kernel.own_ports()))
    }
}

/// So many at once: some wait until nobody uses a device any more, while others do something. More only get in each other's
/// way, for the kernel has one lock for most of what is done to devices, and has those that set forwarding try for it again and
/// again.
const THREADS: usize = 4;

/// Moves the calling thread into a namespace, and does something there with its kernel.
fn enter<T>(
    directory: &Path,
    name: &NamespaceName,
    known: Option<Stack>,
    work: impl FnOnce(&mut Kernel) -> T,
) -> Result<(Stack, T), KernelError> {
    let netns = Netns::open(&namespaces::path(name))?;
    let inode = netns.inode();
    netns.enter()?;
    let mut stack = match known.filter(|stack| stack.inode == inode) {
        Some(stack) => stack,
        None => {
            let own = directory.join(name.as_str()).join(inode.to_string());
            Stack { inode, kernel: Kernel::new(&own)? }
        }
    };
    let result = work(&mut stack.kernel);
    Ok((stack, result))
}

impl Kernel {
    /// Looks at the stacks that are asked for, and at those where something of ours was.
    pub(crate) fn observe_stacks(
        &mut self,
        ask: &Ask,
        features: Features,
    ) -> Result<BTreeMap<NamespaceName, Observed>, KernelError> {
        let mut observed = BTreeMap::new();
        let known = self.stacks.names();
        let names = namespaces::distinct(ask.stacks.keys(), &known)?;
        let nothing = Ask::default();
        let jobs = names.iter().map(|name| (*name, ask.stacks.get(*name).unwrap_or(&nothing))).collect();
        let looks = self.stacks.with_each(jobs, |kernel, ask| kernel.observe(ask), &mut |_| ());
        for (name, look) in names.into_iter().zip(looks) {
            let asked = ask.stacks.get(name);
            match look {
                Ok(stack) => {
                    let named =
                        |cause| KernelError::Stack { namespace: name.clone(), cause: Arc::new(cause) };
                    let stack = stack.map_err(named)?;
                    if asked.is_none() && is_bare(&stack) {
                        self.stacks.forget(name);
                    } else {
                        observed.insert(name.clone(), stack);
                    }
                }
                // It is made with the rest; its guests may be there already.
                Err(KernelError::Netns { reason, .. }) if reason.is_none() => {
                    self.stacks.forget(name);
                    if let Some(asked) = asked {
                        let guests = self.look_into(&asked.guests)?;
                        observed.insert(name.clone(), Observed { guests, ..Observed::nothing(features) });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(observed)
    }

    /// Does steps in the stacks of namespaces, side by side: each piece is for one of them. `progress` hears how many steps
    /// are done.
    pub(crate) fn apply_within(
        &mut self,
        pieces: &[&[Op]],
        keep: &Keep<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Vec<Result<(), KernelError>> {
        let jobs = pieces.iter().filter_map(|piece| Some((piece.first()?.place().0?, *piece))).collect();
        let work = |kernel: &mut Self, piece: &[Op]| {
            let name = piece.first().and_then(|op| op.place().0);
            let steps: Vec<Op> = piece.iter().map(|op| op.place().1.clone()).collect();
            kernel.apply(&steps, &|_, flow| keep(name, flow), &mut |_| ())
        };
        let mut done = 0;
        let mut finished = |number: usize| {
            done += pieces.get(number).map_or(0, |piece| piece.len());
            progress(done);
        };
        let results = self.stacks.with_each(jobs, work, &mut finished);
        let of_piece = |(piece, result): (&&[Op], Result<Vec<_>, KernelError>)| match result {
            Ok(results) => results,
            Err(error) => piece.iter().map(|_| Err(error.clone())).collect(),
        };
        pieces.iter().zip(results).flat_map(of_piece).collect()
    }
}
