//! Continue, step, range step: what each vCPU does next.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};

use tdx_host::HostError;
use tdx_host::debug::DebugError;

use crate::owner::Owner;
use crate::target::{Action, TdTarget, index};

impl<O: Owner> TdTarget<'_, O> {
    fn act(&mut self, tid: Tid, action: Action) -> Result<(), HostError> {
        if let Some(vcpu) = self.vcpus.get_mut(index(tid)) {
            vcpu.action = Some(action);
        }
        Ok(())
    }
}

impl<O: Owner> MultiThreadResume for TdTarget<'_, O> {
    fn resume(&mut self) -> Result<(), HostError> {
        // vCPUs without an action of their own stay where they are while another is stepped.
        match self.prepare() {
            Ok(()) => Ok(()),
            Err(DebugError::Host(error)) => Err(error),
            Err(error) => {
                self.owner.tell(&format!("resuming: {error}"));
                Ok(())
            }
        }
    }
    fn clear_resume_actions(&mut self) -> Result<(), HostError> {
        self.vcpus.iter_mut().for_each(|vcpu| vcpu.action = None);
        Ok(())
    }
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), HostError> {
        self.act(tid, Action::Continue)
    }
    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }
    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }
    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<O: Owner> MultiThreadSchedulerLocking for TdTarget<'_, O> {
    /// vCPUs that were given no action stand still anyway.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), HostError> {
        Ok(())
    }
}

impl<O: Owner> MultiThreadSingleStep for TdTarget<'_, O> {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), HostError> {
        self.act(tid, Action::Step)
    }
}

impl<O: Owner> MultiThreadRangeStepping for TdTarget<'_, O> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), HostError> {
        self.act(tid, Action::StepRange(start, end))
    }
}
