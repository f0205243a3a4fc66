//! Somewhere to be: a network namespace and a cgroup. Closures and programs run inside.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
};

use crate::{
    cgroup::Group,
    namespace::{self, Namespace},
};

type Job = Box<dyn FnOnce() + Send>;

/// Cheap to clone; the namespace's name and the cgroup go with the last clone.
///
/// One thread, the anchor, has moved in. Whatever it starts, a thread or a program, is born inside.
#[derive(Clone, Debug)]
pub struct Place(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    // In order of destruction: the anchor ends, then the cgroup and the namespace can go.
    anchor: Anchor,
    group: Group,
    namespace: Arc<Namespace>,
}

#[derive(Debug)]
struct Anchor {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Place {
    pub(crate) fn new(name: &str, namespace: Arc<Namespace>, cgroup: PathBuf) -> Result<Self> {
        let group = Group::create(cgroup)?;
        let anchor = Anchor::drop_in(name, &namespace, &group)?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), anchor, group, namespace })))
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name by which `ip netns exec` knows the namespace.
    pub fn netns_name(&self) -> &str {
        self.0.namespace.name()
    }

    pub fn netns(&self) -> PathBuf {
        self.0.namespace.path()
    }

    pub fn cgroup(&self) -> &Path {
        self.0.group.path()
    }

    pub(crate) fn namespace(&self) -> Arc<Namespace> {
        Arc::clone(&self.0.namespace)
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. A panic in there is a panic here.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let name = self.0.name.clone();
        let started = self.0.anchor.ask(move || thread::Builder::new().name(name).spawn(work));
        #[expect(clippy::expect_used, reason = "a test cannot go on without its threads, and says so")]
        started.expect("the place is closed").expect("starting a thread")
    }

    /// Starts a program inside. It ends with the [`Process`], and with us if we are killed.
    pub fn start(&self, mut command: Command) -> Result<Process> {
        let title = format!("{:?} in {}", command.get_program(), self.0.name);
        die_with_the_anchor(&mut command);
        let child =
            self.0.anchor.ask(move || command.spawn())?.with_context(|| format!("starting {title}"))?;
        Ok(Process { child })
    }

    /// Whatever starts inside from now on gives way to others on the processor: nice(1), 19 of 19.
    pub fn give_way(&self) -> Result<()> {
        let lowered = self.0.anchor.ask(|| {
            #[expect(unsafe_code, reason = "nix has no setpriority")]
            // SAFETY: setpriority(2) takes three numbers; who 0 is the calling thread, and threads inherit from it.
            Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) })
        })?;
        lowered.map(drop).with_context(|| format!("lowering the priority of {}", self.0.name))
    }

    /// Runs a program inside, to its end.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        let title = format!("{:?} in {}", command.get_program(), self.0.name);
        self.run(move || command.output()).with_context(|| format!("running {title}"))
    }

    /// Runs lines of `ip` commands inside.
    pub fn ip(&self, lines: impl Into<String>) -> Result<()> {
        let lines = lines.into();
        self.run(move || namespace::ip_batch(&lines)).with_context(|| format!("in {}", self.0.name))
    }

    /// Sets a kernel parameter of the namespace, such as `net.ipv4.ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        let (shown, value) = (file.display().to_string(), value.to_owned());
        self.run(move || fs::write(file, value))
            .with_context(|| format!("setting {shown} in {}", self.0.name))
    }
}

impl Anchor {
    fn drop_in(name: &str, namespace: &Arc<Namespace>, group: &Group) -> Result<Self> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (report, arrival) = mpsc::channel();
        let (namespace, directory) = (Arc::clone(namespace), group.path().to_owned());
        let thread = thread::Builder::new().name(format!("{name}-anchor")).spawn(move || {
            let arrived = namespace.enter().and_then(|()| Group::join_at(&directory));
            drop(namespace);
            let stay = arrived.is_ok();
            // Nobody listens only if the one who asked is gone: then there is nothing to do either.
            let _ = report.send(arrived);
            if stay {
                inbox.iter().for_each(|job| job());
            }
        })?;
        arrival.recv().context("the anchor thread ended")??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has the anchor do `work`, which must be quick: everybody who wants in waits for it.
    fn ask<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (answer, result) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(work());
        });
        let jobs = self.jobs.as_ref().context("the place is closed")?;
        jobs.send(job).map_err(|_| anyhow!("the anchor thread ended"))?;
        result.recv().context("the anchor thread ended")
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A program inside a place; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        kill(nix::unistd::Pid::from_raw(id), signal)
            .with_context(|| format!("sending {signal} to process {id}"))
    }

    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    pub fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn die_with_the_anchor(command: &mut Command) {
    let set = || nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    #[expect(unsafe_code, reason = "code between fork and exec")]
    // SAFETY: the closure only makes the prctl(2) system call: it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(set);
    }
}
