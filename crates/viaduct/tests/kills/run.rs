//! The life of one host: change after change, each killed somewhere.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    policy::{Answer, GUESTS, Policy, homes, probes},
    prober::Prober,
    random::Random,
    steady::Steady,
    support::{CONFIG, World},
};

/// What changes something, and how many of a hundred kills come before a call of it. Each is counted by itself.
const CALLS: [(&str, usize); 5] = [("sendto", 68), ("write", 14), ("rename", 6), ("fsync", 6), ("ioctl", 6)];

/// What an operator asks for.
#[derive(Clone, Debug)]
enum Action {
    Apply,
    Attach(usize),
    Detach(usize),
    Set { guest: usize, change: String },
}

impl Action {
    fn line(&self) -> String {
        match self {
            Self::Apply => "apply".to_owned(),
            Self::Attach(guest) => format!("attach g{guest} --netns g{guest}"),
            Self::Detach(guest) => format!("detach g{guest}"),
            Self::Set { guest, change } => format!("set g{guest} {change}"),
        }
    }
}

/// How a run came to its end.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "it is told when something is wrong")]
enum End {
    /// Before the so-manieth of these calls.
    Killed(&'static str, usize),
    /// After so long.
    KilledAfter(Duration),
    ByItself,
}

pub(crate) struct Host<'a> {
    world: &'a World,
    seed: usize,
    random: Random,
    prober: Prober,
    steady: Option<Steady>,
    policy: Policy,
    /// How many of each call a run has, as far as is known.
    calls: BTreeMap<&'static str, usize>,
    took: Duration,
    log: Vec<String>,
}

impl<'a> Host<'a> {
    pub(crate) fn new(world: &'a World, seed: usize) -> Self {
        let mut random = Random::new(u64::try_from(seed).unwrap());
        let policy = Policy::new(homes(&mut random));
        let outside = [
            "address add 203.0.113.1/24 dev eth0",
            "address add 2001:db8:28::1/64 dev eth0 nodad",
            "address add fe80::1/64 dev eth0 nodad",
            "route add 198.51.100.0/24 via 203.0.113.2",
            "route add 10.0.0.0/8 via 203.0.113.2",
            "-6 route add 2001:db8:51::/48 via 2001:db8:28::2",
            "-6 route add fd00::/8 via 2001:db8:28::2",
        ];
        outside.iter().for_each(|line| drop(world.sh(&format!("ip -n outside {line}"))));
        let guests = (0..GUESTS).map(|guest| format!("g{guest}"));
        for name in guests.chain(["steady".to_owned(), "seg".to_owned()]) {
            // Nobody else has its addresses, and looking for that takes seconds.
            world.sh(&format!(
                "ip netns add {name} && ip netns exec {name} sh -c \
                 'for s in all default; do echo 0 > /proc/sys/net/ipv6/conf/$s/accept_dad; done'"
            ));
        }
        let prober = Prober::new(probes(&policy.homes), random.clone());
        let mut host = Self {
            world,
            seed,
            random,
            prober,
            steady: None,
            policy,
            calls: CALLS
                .into_iter()
                .map(|(call, _)| (call, if call == "sendto" { 150 } else { 20 }))
                .collect(),
            took: Duration::from_millis(200),
            log: Vec::new(),
        };
        host.begin();
        host
    }

    fn begin(&mut self) {
        self.world.write(CONFIG, self.policy.toml());
        self.world.good("apply");
        for guest in 0..GUESTS {
            self.world.good(&format!("attach g{guest} --netns g{guest}"));
        }
        self.world.good("attach steady --netns steady");
        self.settled();
        self.steady = Some(Steady::new());
    }

    /// Changes until it was killed so often.
    #[expect(clippy::print_stderr, reason = "who waits for it wants to know what it did")]
    pub(crate) fn live(mut self, kills: usize) {
        let (begin, mut killed, mut runs) = (Instant::now(), 0, 0);
        while killed < kills {
            runs += 1;
            assert!(runs < 20 * kills + 100, "seldom killed: {killed} of {runs}");
            killed += usize::from(self.change());
        }
        eprintln!(
            "host {}: killed {killed} times in {runs} runs, {:.0?} each",
            self.seed,
            begin.elapsed() / u32::try_from(runs).unwrap()
        );
    }

    /// One change that is killed somewhere, and what comes after. Whether it was killed.
    fn change(&mut self) -> bool {
        let (action, wanted) = self.action();
        let mut possible = vec![self.policy.clone(), wanted.clone()];
        self.expect(&possible);
        let end = self.killed(&action);
        self.log.push(format!("{action:?} ended: {end:?}"));
        if matches!(end, End::ByItself) {
            self.policy = wanted;
            self.settled();
            return false;
        }
        self.look_around();
        // Sometimes the next one is killed as well, on its way somewhere else.
        let (action, wanted) = if self.random.percent(20) && matches!(action, Action::Apply) {
            let mut other = wanted.clone();
            other.vary(&mut self.random);
            possible.push(other.clone());
            self.world.write(CONFIG, other.toml());
            self.expect(&possible);
            let end = self.killed(&Action::Apply);
            self.log.push(format!("  then Apply ended: {end:?}"));
            if !matches!(end, End::ByItself) {
                self.look_around();
            }
            (Action::Apply, other)
        } else {
            (action, wanted)
        };
        self.world.good(&action.line());
        self.policy = wanted;
        self.settled();
        true
    }

    /// Something to do, and what is wanted by it.
    fn action(&mut self) -> (Action, Policy) {
        let mut wanted = self.policy.clone();
        let guest = self.random.below(GUESTS);
        let is_attached = wanted.attached.contains(&guest);
        match self.random.below(100) {
            0..12 if is_attached && wanted.knows(guest) => {
                wanted.attached.remove(&guest);
                (Action::Detach(guest), wanted)
            }
            0..35 if !is_attached && wanted.knows(guest) => {
                wanted.attached.insert(guest);
                (Action::Attach(guest), wanted)
            }
            12..30 => match wanted.publish_or_not(&mut self.random) {
                Some((guest, published, on)) => {
                    let word = if on { "--publish" } else { "--unpublish" };
                    let change = format!("{word} {}", published.toml(guest));
                    // So that the next apply wants the same.
                    self.world.write(CONFIG, wanted.toml());
                    (Action::Set { guest, change }, wanted)
                }
                None => self.apply(wanted),
            },
            _ => self.apply(wanted),
        }
    }

    fn apply(&mut self, mut wanted: Policy) -> (Action, Policy) {
        wanted.vary(&mut self.random);
        self.world.write(CONFIG, wanted.toml());
        (Action::Apply, wanted)
    }

    /// Runs it, and kills it.
    fn killed(&mut self, action: &Action) -> End {
        let line = action.line();
        let words: Vec<&str> = line.split(' ').collect();
        if self.random.percent(15) {
            return self.killed_sometime(&words);
        }
        let mut die = self.random.below(100);
        let (call, _) = CALLS
            .into_iter()
            .find(|(_, share)| {
                let found = die < *share;
                die = die.saturating_sub(*share);
                found
            })
            .unwrap();
        let most = self.calls.get_mut(call).unwrap();
        let number = self.random.below(*most) + 1;
        let plain = self.world.command(&words);
        let mut traced = Command::new("strace");
        traced
            .args(["-f", "-qq", "-o", "/dev/null"])
            .args(["-e", &format!("trace={call}"), "-e"])
            .arg(format!("inject={call}:signal=KILL:when={number}"))
            .arg(plain.get_program())
            .args(plain.get_args())
            .stdin(Stdio::null());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => traced.env(name, value),
                None => traced.env_remove(name),
            };
        }
        let output = traced.output().expect("strace ends programs at chosen moments");
        // strace ends as what it traces does.
        if output.status.signal() == Some(Signal::KILL.as_raw()) {
            *most = (*most).max(number + 4);
            return End::Killed(call, number);
        }
        // It has fewer than that.
        *most = (*most * 3 / 4).max(4).min(number.max(4));
        assert!(output.status.success(), "{}: {line}: {output:?}", self.told());
        End::ByItself
    }

    fn killed_sometime(&mut self, words: &[&str]) -> End {
        let mut command = self.world.command(words);
        let begin = Instant::now();
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let after = self.took.mul_f64(f64::from(u32::try_from(self.random.below(1000)).unwrap()) / 1000.0);
        thread::sleep(after);
        let _ = kill_process(Pid::from_child(&child), Signal::KILL);
        let status = child.wait().unwrap();
        if status.signal() == Some(Signal::KILL.as_raw()) {
            return End::KilledAfter(after);
        }
        assert!(status.success(), "{}: {words:?}", self.told());
        self.took = begin.elapsed();
        End::ByItself
    }

    /// A host that was left where it was.
    fn look_around(&self) {
        let looked = self.prober.reaches_host().and_then(|()| self.prober.try_all());
        self.so(looked, "after the kill");
        let ours = self.world.sh("ip -oneline link show group 1447641412 up");
        let tables = self.world.sh("nft list tables");
        let closed = ours.is_empty() || tables.contains("table inet viaduct");
        assert!(closed, "{}: {tables}", self.told());
    }

    /// A host that has arrived: nothing is left to do, and all is as the policy says.
    fn settled(&mut self) {
        let answers: Vec<Answer> =
            self.prober.probes().iter().map(|probe| self.policy.answer(probe)).collect();
        let epoch = self.expect(std::slice::from_ref(&self.policy));
        let plan = self.world.viaduct("plan --exit-code");
        assert_eq!((plan.code(), plan.out.as_str()), (0, "Nothing to do.\n"), "{}: {plan:?}", self.told());
        self.so(self.prober.reaches_host(), "at rest");
        let must: Vec<bool> = answers.iter().map(|answer| *answer == Answer::Open).collect();
        let arrived = self.prober.arrive(epoch, &must).and_then(|()| self.prober.try_all());
        self.so(arrived, "at rest");
        if let Some(steady) = &mut self.steady {
            let lives = steady.lives();
            self.so(lives, "at rest");
        }
    }

    /// What any of these would let through may arrive from now on.
    fn expect(&self, possible: &[Policy]) -> u32 {
        let any = |probe: &_, policies: &[Policy]| {
            policies.iter().any(|policy| policy.answer(probe) != Answer::Closed)
        };
        let probes = self.prober.probes();
        let may_arrive = probes.iter().map(|probe| any(probe, possible)).collect();
        let harmless = |probe: &_| !possible.iter().any(|policy| policy.may_answer_begin(probe));
        self.prober.expect(may_arrive, probes.iter().map(harmless).collect())
    }

    #[track_caller]
    fn so(&self, result: Result<(), String>, when: &str) {
        if let Err(error) = result {
            let state = self.world.sh(
                "ip -oneline address; ip route; ip -6 route; ip link; for g in g0 g1 g2 g3 g4; do echo $g; \
                 ip -n $g -oneline address; ip -n $g route; ip -n $g -6 route; ip -n $g -6 neighbour; done; \
                 ip -6 neighbour; cat /proc/sys/net/ipv6/conf/*/forwarding",
            );
            panic!("{} {when}: {error}\n{}{state}", self.told(), self.world.read(CONFIG));
        }
    }

    /// How it came to this.
    fn told(&self) -> String {
        let last = self.log.iter().rev().take(4).rev().cloned().collect::<Vec<_>>();
        format!("host {} after {} changes, {}", self.seed, self.log.len(), last.join("; "))
    }
}
