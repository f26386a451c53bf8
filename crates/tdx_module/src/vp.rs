//! A vCPU: its TDVPS (spec: vp-enter.md 0.2; tdx-abi/metadata-fields.json).

use crate::call::Right;
use crate::lock::interleave;
use crate::machine::LpId;
use crate::state::{AtomicVcpuState, LastTdExit, VcpuState};
use crate::xstate::Xfam;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::{Mutex, MutexGuard};
use x86_arch::Hpa;
use x86_arch::vmx::Vcpu;

/// ASSOC_LPID of a vCPU that no processor has.
pub const NO_LP: u32 = u32::MAX;
/// The most TDVPS pages a vCPU may be given, whatever its TD needs.
pub const MAX_TDVPS_PAGES: usize = 15;

/// A virtual processor of a TD.
pub struct Vp {
    /// Address of the TDVPR page: the vCPU's name.
    pub tdvpr: Hpa,
    /// TDVPS pages in order, TDVPR first. Grows under the exclusive lock of the TDVPR.
    pub pages: Vec<Hpa>,
    state: AtomicVcpuState,
    /// ASSOC_LPID.
    assoc: AtomicU32,
    /// Everything else. Belongs to the processor the vCPU is associated with, so a try never fails for it;
    /// metadata calls on other processors are refused by the association before they come here.
    data: Mutex<VpData>,
}

/// Of a vCPU, what only its processor touches.
#[derive(Debug)]
pub struct VpData {
    /// VMCS and registers, as the machine runs it.
    pub vcpu: Vcpu,
    pub index: u32,
    /// TD epoch that the vCPU's translations belong to.
    pub epoch: u64,
    pub last_exit_tsc: u64,
    pub last_td_exit: LastTdExit,
    /// 0: L1.
    pub curr_vm: u16,
    pub xfam: Xfam,
    /// Any byte; non-zero asks for a virtual NMI.
    pub pend_nmi: u8,
    pub cpuid_supervisor_ve: u8,
    pub cpuid_user_ve: u8,
    pub launched: bool,
    /// Host-priority back-off (spec: vp-enter.md 8.4).
    pub hp_lock_busy_since: Option<u64>,
    /// Zero-step defence: LAST_EPF_GPA_LIST and POSSIBLY_EPF_STEPPING.
    pub epf_gpas: Vec<u64>,
    pub possibly_epf_stepping: u8,
    pub nmi_unblocking_due_to_iret: bool,
    /// Shared EPTP; all ones until the VMM sets it.
    pub shared_eptp: u64,
    /// What metadata, exits and guest leaves keep beside.
    pub extra: crate::guest::VpExtra,
}

impl Vp {
    pub fn new(tdvpr: Hpa) -> Vp {
        Vp {
            tdvpr,
            pages: alloc::vec![tdvpr],
            state: AtomicVcpuState::new(VcpuState::Uninitialized),
            assoc: AtomicU32::new(NO_LP),
            data: Mutex::new(VpData::new()),
        }
    }
    pub fn state(&self) -> VcpuState {
        self.state.get()
    }
    pub fn set_state(&self, right: &impl Right, state: VcpuState) {
        self.state.set(right, state);
    }
    /// ASSOC_LPID: a processor's index or all ones.
    pub fn assoc_lpid(&self) -> u32 {
        self.assoc.load(Ordering::Acquire)
    }
    /// Takes the vCPU for a processor. `Ok(true)` if it was free, `Ok(false)` if the processor has it already.
    pub fn associate(&self, _: &impl Right, lp: LpId) -> Result<bool, LpId> {
        interleave();
        let taken = self
            .assoc
            .compare_exchange(NO_LP, lp.0, Ordering::AcqRel, Ordering::Acquire);
        match taken {
            Ok(_) => Ok(true),
            Err(owner) if owner == lp.0 => Ok(false),
            Err(owner) => Err(LpId(owner)),
        }
    }
    pub fn dissociate(&self, _: &impl Right) {
        self.assoc.store(NO_LP, Ordering::Release);
    }
    /// The vCPU's data, for the processor it is associated with.
    ///
    /// `None` means that two processors believe to own the vCPU: an impossible state.
    pub fn data(&self) -> Option<MutexGuard<'_, VpData>> {
        self.data.try_lock()
    }
    /// The vCPU's data under the exclusive lock of its TDVPR.
    pub fn data_mut(&mut self) -> &mut VpData {
        self.data.get_mut()
    }
}

impl VpData {
    fn new() -> VpData {
        VpData {
            vcpu: Vcpu::default(),
            index: 0,
            epoch: 0,
            last_exit_tsc: 0,
            last_td_exit: LastTdExit::AsyncFault,
            curr_vm: 0,
            xfam: Xfam::default(),
            pend_nmi: 0,
            cpuid_supervisor_ve: 0,
            cpuid_user_ve: 0,
            launched: false,
            hp_lock_busy_since: None,
            epf_gpas: Vec::new(),
            possibly_epf_stepping: 0,
            nmi_unblocking_due_to_iret: false,
            shared_eptp: u64::MAX,
            extra: crate::guest::VpExtra::default(),
        }
    }
}
