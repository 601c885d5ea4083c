//! The stacks of namespaces that networks are in. Each has a kernel of its own, whose sockets were opened there and stay
//! there; what it does goes by a thread in the namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use viaduct_plan::{Apply, Ask, Features, Keep, Observe, Observed, Op, is_bare};
use viaduct_types::NamespaceName;

use crate::{
    Kernel,
    error::{KernelError, NetnsReason},
    namespaces,
    netns::Netns,
};

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
        let netns = Netns::open(&namespaces::path(name))?;
        let inode = netns.inode();
        let known = self.open.remove(name).filter(|stack| stack.inode == inode);
        let own = self.directory.join(name.as_str()).join(inode.to_string());
        let (stack, result) = netns.run(|| {
            let mut stack = match known {
                Some(stack) => stack,
                None => Stack { inode, kernel: Kernel::new(&own)? },
            };
            let result = work(&mut stack.kernel);
            Ok::<_, KernelError>((stack, result))
        })??;
        self.open.insert(name.clone(), stack);
        Ok(result)
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

impl Kernel {
    /// Looks at the stacks that are asked for, and at those where something of ours was.
    pub(crate) fn observe_stacks(
        &mut self,
        ask: &Ask,
        features: Features,
    ) -> Result<BTreeMap<NamespaceName, Observed>, KernelError> {
        let mut observed = BTreeMap::new();
        let known = self.stacks.names();
        let names: BTreeSet<&NamespaceName> = ask.stacks.keys().chain(&known).collect();
        for name in names {
            let asked = ask.stacks.get(name);
            let look = |kernel: &mut Self| kernel.observe(asked.unwrap_or(&Ask::default()));
            match self.stacks.with(name, look) {
                Ok(stack) => {
                    let stack = stack?;
                    if asked.is_none() && is_bare(&stack) {
                        self.stacks.forget(name);
                    } else {
                        observed.insert(name.clone(), stack);
                    }
                }
                // It is made with the rest; its guests may be there already.
                Err(KernelError::Netns { reason, .. })
                    if reason.is_missing() || reason == NetnsReason::NotNetns =>
                {
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

    /// Does steps in the stack of a namespace.
    pub(crate) fn apply_within(
        &mut self,
        name: &NamespaceName,
        ops: &[Op],
        keep: &Keep<'_>,
    ) -> Vec<Result<(), KernelError>> {
        let steps: Vec<Op> = ops.iter().map(|op| op.place().1.clone()).collect();
        let keep = |_: Option<&NamespaceName>, flow: &_| keep(Some(name), flow);
        match self.stacks.with(name, |kernel| kernel.apply(&steps, &keep, &mut |_| ())) {
            Ok(results) => results,
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}
