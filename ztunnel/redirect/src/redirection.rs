//! Whoever redirects this node's pods: our own eBPF programs, or a CNI.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use crate::{Captured, EnrolledPod, Finding, PodSpec, RedirectError, Redirector, VerdictCounts};

/// What the daemon asks of the redirection. A CNI does by itself what programs of ours would have to be told.
pub enum Redirection {
    Ebpf(Box<Redirector>),
    Cni(Captured),
}

impl Redirection {
    /// See [`Redirector::activate`].
    pub fn activate(&self, enrolled: &[&EnrolledPod]) -> Result<(), RedirectError> {
        self.ebpf().map_or(Ok(()), |redirector| redirector.activate(enrolled))
    }

    /// Enrols a pod, or takes it over from a daemon before us.
    pub async fn enrol(&self, spec: PodSpec) -> Result<EnrolledPod, RedirectError> {
        match self {
            Self::Ebpf(redirector) => redirector.enrol(spec).await,
            Self::Cni(captured) => captured.enrol(spec),
        }
    }

    /// See [`Redirector::update`].
    pub fn update(&self, pod: &EnrolledPod, spec: &PodSpec) -> Result<(), RedirectError> {
        self.ebpf().map_or(Ok(()), |redirector| redirector.update(pod, spec))
    }

    /// See [`Redirector::stop_capture`].
    pub fn stop_capture(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        self.ebpf().map_or(Ok(()), |redirector| redirector.stop_capture(pod))
    }

    /// See [`Redirector::resume_capture`].
    pub async fn resume_capture(&self, pod: &EnrolledPod, spec: &PodSpec) -> Result<(), RedirectError> {
        match self.ebpf() {
            Some(redirector) => redirector.resume_capture(pod, spec).await,
            None => Ok(()),
        }
    }

    /// See [`Redirector::clean_up`].
    pub async fn clean_up(&self, pod: &EnrolledPod) -> Result<(), RedirectError> {
        match self.ebpf() {
            Some(redirector) => redirector.clean_up(pod).await,
            None => Ok(()),
        }
    }

    /// Looks for what was undone in a pod's namespace, and repairs it. A CNI looks after its rules itself.
    pub async fn inspect(&self, pod: &EnrolledPod) -> Result<Vec<Finding>, RedirectError> {
        match self.ebpf() {
            Some(redirector) => redirector.inspect(pod).await,
            None => Ok(Vec::new()),
        }
    }

    /// To be called when this daemon drains. A successor takes our programs' listeners by itself, and a daemon before us
    /// that lives takes them back; in the ports that a CNI's rules name they stand beside us until we leave them.
    pub fn hand_over(&self) {
        match self {
            Self::Ebpf(redirector) => redirector.step_down(),
            Self::Cni(captured) => captured.hand_over(),
        }
    }

    /// See [`Redirector::is_superseded`].
    pub fn is_superseded(&self) -> bool {
        self.ebpf().is_some_and(Redirector::is_superseded)
    }

    /// See [`Redirector::is_bereft`].
    pub fn is_bereft(&self) -> bool {
        self.ebpf().is_some_and(Redirector::is_bereft)
    }

    /// See [`Redirector::take_back`].
    pub async fn take_back(&self, pods: &[Arc<EnrolledPod>]) -> Result<(), RedirectError> {
        match self.ebpf() {
            Some(redirector) => redirector.take_back(pods).await,
            None => Ok(()),
        }
    }

    /// See [`Redirector::forget_strangers`].
    pub fn forget_strangers(
        &self,
        enrolled: &[&EnrolledPod],
        awaited: &HashSet<IpAddr>,
    ) -> Result<usize, RedirectError> {
        self.ebpf().map_or(Ok(0), |redirector| redirector.forget_strangers(enrolled, awaited))
    }

    /// See [`Redirector::forget_dead`].
    pub fn forget_dead(&self) -> Result<(), RedirectError> {
        self.ebpf().map_or(Ok(()), Redirector::forget_dead)
    }

    /// See [`Redirector::follow_kubelet`].
    pub fn follow_kubelet(&self) -> Result<(), RedirectError> {
        self.ebpf().map_or(Ok(()), Redirector::follow_kubelet)
    }

    /// See [`Redirector::keep_beating`].
    pub async fn keep_beating(&self) {
        if let Some(redirector) = self.ebpf() {
            redirector.keep_beating().await;
        }
    }

    /// What the programs decided; nothing where there are none.
    pub fn verdicts(&self) -> VerdictCounts {
        self.ebpf().map(Redirector::verdicts).unwrap_or_default()
    }

    fn ebpf(&self) -> Option<&Redirector> {
        match self {
            Self::Ebpf(redirector) => Some(redirector),
            Self::Cni(_) => None,
        }
    }
}
