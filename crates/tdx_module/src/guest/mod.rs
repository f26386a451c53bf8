//! The guest side: what a vCPU keeps for metadata, VM exits and TDG.* leaves, and what the module does with them.
//!
//! TDH.VP.ENTER makes a [`Guest`] and calls [`Guest::run`], which runs the vCPU and handles its VM exits
//! (`dispatch.rs`) until one of them leaves the TD (`td_exit.rs`).

mod cpuid_exit;
pub mod cr;
mod dispatch;
mod ept_exit;
#[cfg(test)]
mod exit_tests;
pub mod initial;
pub mod inject;
pub mod l2;
pub mod memory;
mod msr_exit;
mod operand;
#[cfg(test)]
mod register_tests;
pub mod stepping;
mod td_exit;
mod tdcall;
#[cfg(test)]
mod tdcall_tests;
pub mod tdvps;
pub mod vmcs;

pub use td_exit::{AsyncExit, TdExit, extended};

use crate::call::Sticky;
use crate::event::Event;
use crate::lock_order::Order;
use crate::lp::LpLocal;
use crate::machine::{LpId, Machine};
use crate::module::Module;
use crate::refusal::Broken;
use crate::sys::SysInfo;
use crate::td::{Td, config_flags};
use crate::vp::{Vp, VpData};
use crate::xstate::Xbuff;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use memory::TdMemory;
use x86_arch::Gpr;

/// Fields of TDVPS that only metadata, exits and guest leaves use.
#[derive(Clone, Debug)]
pub struct VpExtra {
    /// Extended state while the vCPU does not run.
    pub xbuff: Xbuff,
    /// VMCS fields that no processor acts on.
    pub vmcs: vmcs::VmcsExtra,
    /// TDVPS fields without a home of their own, by class and field code; a field that is not there is 0.
    pub fields: BTreeMap<(u8, u32), u64>,
    /// VMCSs of the L2 VMs, VM 1 first.
    pub l2: Vec<l2::L2Vmcs>,
    /// CPUID_CONTROL: #VE for a CPUID row, bit 0 at CPL 0, bit 1 above.
    pub cpuid_control: [u8; 128],
    /// The vCPU entered on the processor it is associated with.
    pub entered_here: bool,
    /// The vCPU entered at all.
    pub entered: bool,
}

impl Default for VpExtra {
    fn default() -> Self {
        Self {
            xbuff: Xbuff::new(),
            vmcs: vmcs::VmcsExtra::default(),
            fields: BTreeMap::new(),
            l2: Vec::new(),
            cpuid_control: [0; 128],
            entered_here: false,
            entered: false,
        }
    }
}

/// A vCPU that a processor runs.
pub struct Guest<'a, M: Machine> {
    pub module: &'a Module<M>,
    pub sys: &'a SysInfo,
    pub lp: LpId,
    pub td: &'a Td,
    pub vp: &'a Vp,
    pub data: &'a mut VpData,
    pub local: &'a mut LpLocal,
    /// The locks that the entering call holds; those of guest leaves come after them.
    pub order: &'a Order,
    /// What happens inside a TD is past every check of the call that entered it.
    pub right: Sticky,
}

/// What a handled VM exit comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    Resume,
    Exit(TdExit),
}

impl From<AsyncExit> for Next {
    fn from(exit: AsyncExit) -> Next {
        Next::Exit(TdExit::Async(exit))
    }
}

impl<M: Machine> Guest<'_, M> {
    pub fn get(&self, reg: Gpr) -> u64 {
        self.data.vcpu.regs.gpr[reg.index()]
    }
    pub fn set(&mut self, reg: Gpr, value: u64) {
        self.data.vcpu.regs.gpr[reg.index()] = value;
    }
    /// Current privilege level: SS.DPL.
    pub fn cpl(&self) -> u32 {
        let ss = self.data.vcpu.regs.segments[x86_arch::vmx::Seg::Ss as usize];
        ss.access >> 5 & 3
    }
    /// EFER.LMA and CS.L.
    pub fn is_64_bit(&self) -> bool {
        let regs = &self.data.vcpu.regs;
        let cs = regs.segments[x86_arch::vmx::Seg::Cs as usize];
        regs.msr.efer >> 10 & 1 != 0 && cs.access >> 13 & 1 != 0
    }
    pub fn is_debug(&self) -> bool {
        self.td.config.is_debug()
    }
    pub fn no_rbp_mod(&self) -> bool {
        self.td.config.config_flags & config_flags::NO_RBP_MOD != 0
    }
    pub fn memory(&self) -> TdMemory<'_, M> {
        TdMemory {
            module: self.module,
            td: self.td,
            shared_eptp: self.data.shared_eptp,
        }
    }

    /// Runs the vCPU until an exit leaves the TD.
    pub fn run(&mut self) -> Result<TdExit, Broken> {
        let (module, lp, tdvpr) = (self.module, self.lp, self.vp.tdvpr);
        module.emit(Event::TdEntry { lp, tdvpr });
        loop {
            let memory = TdMemory {
                module,
                td: self.td,
                shared_eptp: self.data.shared_eptp,
            };
            module.machine().run(lp, &mut self.data.vcpu, &memory);
            let reason = self.data.vcpu.exit.basic_reason();
            module.emit(Event::VmExit { lp, tdvpr, reason });
            match self.handle_exit()? {
                Next::Resume => {}
                Next::Exit(exit) => return Ok(exit),
            }
        }
    }
}
