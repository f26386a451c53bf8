//! A TD: its TDR and TDCS (spec: host-td.md 1; tdx-abi/metadata-fields.json).
//!
//! Who may change what: fields without interior mutability change under the exclusive lock of the TDR's PAMT entry
//! only (the build leaves take it); the others have a lock of their own or are single atomic words.

use crate::call::{Commit, Right};
use crate::cpuid::{Component, TdCpuid};
use crate::lock::{HpLock, ShareEx, interleave};
use crate::msr::{MsrFeatures, VirtualVmxMsrs};
use crate::sept::SeptTree;
use crate::servtd::Binding;
use crate::state::{AtomicOpState, LifeCycle, OpState};
use crate::xstate::{XbuffLayout, Xfam};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use sha2::{Digest, Sha384};
use x86_arch::vmx::MsrBitmap;
use x86_arch::{Gpa, Hkid, Hpa, KeyedHpa};

/// A SHA-384 value, or another 48-byte identity (MRCONFIGID).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash384(pub [u8; 48]);

impl Default for Hash384 {
    fn default() -> Self {
        Self([0; 48])
    }
}

impl Hash384 {
    /// The value as metadata shows it: six little-endian words.
    pub fn word(&self, index: usize) -> u64 {
        self.0[index * 8..]
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// ATTRIBUTES bits.
pub mod attributes {
    pub const DEBUG: u64 = 1 << 0;
    pub const SEPT_VE_DISABLE: u64 = 1 << 28;
    pub const MIGRATABLE: u64 = 1 << 29;
    pub const PKS: u64 = 1 << 30;
    pub const PERFMON: u64 = 1 << 63;
}

/// CONFIG_FLAGS bits.
pub mod config_flags {
    pub const GPAW: u64 = 1 << 0;
    pub const FLEXIBLE_PENDING_VE: u64 = 1 << 1;
    pub const NO_RBP_MOD: u64 = 1 << 2;
}

/// TD_CTLS bits.
pub mod td_ctls {
    pub const PENDING_VE_DISABLE: u64 = 1 << 0;
    /// Releases after 1.5.01: show x2APIC ids and topology instead of #VE.
    pub const ENUM_TOPOLOGY: u64 = 1 << 1;
}

/// How many TDCS pages a TD without L2 VMs has.
pub const MIN_TDCS_PAGES: usize = 6;
/// How many TDCS pages a TD may have.
pub const MAX_TDCS_PAGES: usize = 9;
/// TDCS page index before the Secure-EPT root of L2 VM 1.
pub const L2_SEPT_ROOT_PAGE: usize = 5;
/// TDCS page index of the Secure-EPT root.
pub const SEPT_ROOT_PAGE: usize = 3;
/// TDCS page index of the zero page.
pub const ZERO_PAGE: usize = 4;

/// A trust domain.
pub struct Td {
    // --- TDR ---
    /// Address of the TDR page: the TD's name.
    pub tdr: Hpa,
    fatal: AtomicBool,
    pub life_cycle: LifeCycle,
    pub hkid: Hkid,
    /// Packages on which the TD's key is programmed.
    pub pkg_config_bitmap: u32,
    /// 4 KiB pages that name this TD as their owner.
    chldcnt: AtomicU64,
    pub uuid: [u64; 4],
    pub handoff_version: u16,
    pub seamdb_index: u64,
    pub seamdb_nonce: [u64; 4],
    /// TDCS pages in order, up to 9.
    pub tdcx: Vec<Hpa>,
    // --- TDCS ---
    /// The OP_STATE lock. The state itself is [`Td::op_state`].
    pub op_state_lock: HpLock<()>,
    op_state: AtomicOpState,
    pub num_vcpus: AtomicU32,
    pub num_assoc_vcpus: AtomicU32,
    pub epoch: Epoch,
    pub config: TdConfig,
    pub topology: TdTopology,
    /// NOTIFY_ENABLES, VM_CTLS[0..4], TD_CTLS and HP_LOCK_TIMEOUT (in TSC ticks) change at any time.
    pub notify_enables: AtomicU64,
    pub vm_ctls: [AtomicU64; 4],
    pub td_ctls: AtomicU64,
    pub hp_lock_timeout: AtomicU64,
    pub measurement: Measurement,
    /// RTMR[0..4] with the cached TEE_INFO_HASH, under the RTMR lock.
    pub rtmr: HpLock<Rtmrs>,
    pub servtd: HpLock<Binding>,
    pub servtd_hash: Hash384,
    pub migration: Migration,
    pub sept: SeptTree,
}

/// What MNG.INIT computes from TD_PARAMS and what stays the same afterwards.
#[derive(Default)]
pub struct TdConfig {
    pub attributes: u64,
    pub xfam: Xfam,
    pub max_vcpus: u32,
    pub num_l2_vms: u16,
    /// EPTP with the root's address.
    pub eptp: u64,
    pub config_flags: u64,
    pub tsc_frequency: u16,
    pub tsc_multiplier: u64,
    pub tsc_offset: u64,
    pub mrconfigid: Hash384,
    pub mrowner: Hash384,
    pub mrownerconfig: Hash384,
    pub arch_capabilities: u64,
    pub cpuid: TdCpuid,
    /// What MSR exits depend on.
    pub features: MsrFeatures,
    /// The virtual VMX capability MSRs.
    pub vmx: VirtualVmxMsrs,
    pub msr_bitmap: Box<MsrBitmap>,
    pub xbuff: XbuffLayout,
}

impl TdConfig {
    pub const fn is_debug(&self) -> bool {
        self.attributes & attributes::DEBUG != 0
    }
    pub const fn gpaw(&self) -> bool {
        self.config_flags & config_flags::GPAW != 0
    }
    /// Bits of a guest physical address: 48 or 52, shared bit included.
    pub const fn gpa_width(&self) -> u32 {
        if self.gpaw() { 52 } else { 48 }
    }
    pub const fn shared_bit(&self) -> u64 {
        1 << (self.gpa_width() - 1)
    }
    /// A GPA with the shared bit clear and nothing above it (spec: host-platform.md 6, B7).
    pub const fn is_private(&self, gpa: Gpa) -> bool {
        gpa.raw() < self.shared_bit()
    }
    /// TDVPS pages of each vCPU.
    pub const fn tdvps_pages(&self) -> usize {
        6 + 3 * self.num_l2_vms as usize
    }
}

/// TOPOLOGY_ENUM_CONFIGURED and X2APIC_IDS, which releases after 1.5.01 have.
#[derive(Default, Debug)]
pub struct TdTopology {
    configured: AtomicBool,
    /// By vCPU index; those without one are 0. Grows under the exclusive lock of the TDR.
    x2apic_ids: spin::RwLock<Vec<u32>>,
}

impl TdTopology {
    pub fn reset(&mut self, _: &Commit, configured: bool) {
        *self.configured.get_mut() = configured;
        self.x2apic_ids.get_mut().clear();
    }
    /// Every vCPU was given its x2APIC id.
    pub fn is_configured(&self) -> bool {
        self.configured.load(Ordering::Acquire)
    }
    /// A vCPU came without an x2APIC id.
    pub fn unconfigure(&self, _: &impl Right) {
        self.configured.store(false, Ordering::Release);
    }
    pub fn x2apic_id(&self, index: u32) -> u32 {
        let ids = self.x2apic_ids.read();
        ids.get(index as usize).copied().unwrap_or(0)
    }
    /// Gives vCPU `index` its id, unless one before it has the same.
    pub fn set(&self, _: &impl Right, index: u32, id: u32) -> bool {
        let mut ids = self.x2apic_ids.write();
        ids.resize(index as usize, 0);
        let unique = !ids.contains(&id);
        if unique {
            ids.push(id);
        }
        unique
    }
}

/// MRTD, while it grows and when it is final.
pub enum Measurement {
    Growing(Box<Sha384>),
    Final(Hash384),
}

impl Measurement {
    /// MRTD as metadata shows it: 0 until it is final.
    pub fn mrtd(&self) -> Hash384 {
        match self {
            Measurement::Growing(_) => Hash384::default(),
            Measurement::Final(mrtd) => *mrtd,
        }
    }
    /// Appends a step: a 128-byte block with its name and GPA, then the measured bytes (spec: host-td.md 4).
    pub fn extend(&mut self, _: &Commit, step: &str, gpa: Gpa, content: &[u8]) {
        if let Measurement::Growing(hash) = self {
            let mut block = [0; 128];
            block[..step.len()].copy_from_slice(step.as_bytes());
            block[16..24].copy_from_slice(&gpa.raw().to_le_bytes());
            hash.update(block);
            hash.update(content);
        }
    }
    pub fn finish(&mut self, _: &Commit) {
        if let Measurement::Growing(hash) = self {
            *self = Measurement::Final(Hash384(hash.clone().finalize().into()));
        }
    }
}

/// RTMRs and the hash of TDINFO that is cached until one of them changes.
#[derive(Default, Debug)]
pub struct Rtmrs {
    pub values: [Hash384; 4],
    pub tee_info_hash: Option<Hash384>,
}

/// TLB tracking: TD_EPOCH and the vCPUs that entered in the current and in the previous epoch (spec: host-td.md 6).
#[derive(Debug, Default)]
pub struct Epoch {
    /// Shared by TD entries, exclusive for MEM.TRACK.
    pub lock: ShareEx<()>,
    current: AtomicU64,
    references: [AtomicU16; 2],
}

impl Epoch {
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }
    /// REFCOUNT\[i\].
    pub fn references(&self, parity: usize) -> u16 {
        self.references[parity & 1].load(Ordering::Acquire)
    }
    /// vCPUs inside the TD that entered before the last TRACK.
    pub fn in_previous(&self) -> u16 {
        self.references(1 - (self.current() & 1) as usize)
    }
    pub fn reset(&mut self, _: &impl Right) {
        self.current = AtomicU64::new(1);
        self.references = [AtomicU16::new(0), AtomicU16::new(0)];
    }
    pub fn advance(&self, _: &Commit) {
        interleave();
        self.current.fetch_add(1, Ordering::AcqRel);
    }
    /// A vCPU enters; call with the lock held shared. Returns the epoch to give back at the exit.
    pub fn enter(&self, _: &impl Right) -> u64 {
        let epoch = self.current();
        interleave();
        self.references[(epoch & 1) as usize].fetch_add(1, Ordering::AcqRel);
        epoch
    }
    /// A vCPU left that had entered in this epoch.
    pub fn leave(&self, _: &impl Right, epoch: u64) {
        self.references[(epoch & 1) as usize].fetch_sub(1, Ordering::AcqRel);
    }
    /// Whether no TLB can still hold what was blocked in `bepoch`.
    pub fn tracked(&self, bepoch: u64) -> bool {
        let current = self.current();
        if bepoch & 1 << 63 != 0 {
            return false;
        }
        match current.checked_sub(1) {
            Some(previous) if bepoch == previous => self.references((bepoch & 1) as usize) == 0,
            Some(previous) => bepoch < previous,
            None => false,
        }
    }
}

/// Migration state that metadata shows although migration itself is not there yet.
#[derive(Default, Debug)]
pub struct Migration {
    /// MIG_LOCK, and under it the pages of migration streams in order of their creation.
    pub lock: ShareEx<Vec<Hpa>>,
    /// NUM_MIGS: how many there are, readable without the lock.
    pub num_migs: AtomicU16,
    pub enc_key: [u64; 4],
    pub dec_key: [AtomicU64; 4],
    pub dec_key_set: AtomicBool,
    pub version: AtomicU16,
}

impl Td {
    pub fn new(tdr: Hpa, hkid: Hkid, uuid: [u64; 4]) -> Td {
        Td {
            tdr,
            fatal: AtomicBool::new(false),
            life_cycle: LifeCycle::HkidAssigned,
            hkid,
            pkg_config_bitmap: 0,
            chldcnt: AtomicU64::new(0),
            uuid,
            handoff_version: 0,
            seamdb_index: 0,
            seamdb_nonce: [0; 4],
            tdcx: Vec::new(),
            op_state_lock: HpLock::new(()),
            op_state: AtomicOpState::new(OpState::Uninitialized),
            num_vcpus: AtomicU32::new(0),
            num_assoc_vcpus: AtomicU32::new(0),
            epoch: Epoch::default(),
            config: TdConfig::default(),
            topology: TdTopology::default(),
            notify_enables: AtomicU64::new(0),
            vm_ctls: [const { AtomicU64::new(0) }; 4],
            td_ctls: AtomicU64::new(0),
            hp_lock_timeout: AtomicU64::new(0),
            measurement: Measurement::Growing(Box::new(Sha384::new())),
            rtmr: HpLock::new(Rtmrs::default()),
            servtd: HpLock::new(Binding::default()),
            servtd_hash: Hash384::default(),
            migration: Migration::default(),
            sept: SeptTree::default(),
        }
    }
    /// XBUFF_OFFSETS for this XFAM; those of other components keep their value.
    pub fn keep_xbuff_layout(&mut self, _: &impl Right, xfam: Xfam, components: &[Component; 19]) {
        let old = self.config.xbuff.offsets;
        self.config.xbuff = xfam.layout(components);
        for (n, offset) in self.config.xbuff.offsets.iter_mut().enumerate() {
            if n < 2 || !xfam.has(1 << n) {
                *offset = old[n];
            }
        }
    }
    pub fn op_state(&self) -> OpState {
        self.op_state.get()
    }
    pub fn set_op_state(&self, right: &impl Right, state: OpState) {
        self.op_state.set(right, state);
    }
    pub fn is_fatal(&self) -> bool {
        self.fatal.load(Ordering::Acquire)
    }
    /// The TD can only be torn down from now on.
    pub fn set_fatal(&self, _: &impl Right) {
        self.fatal.store(true, Ordering::Release);
    }
    pub fn chldcnt(&self) -> u64 {
        self.chldcnt.load(Ordering::Acquire)
    }
    /// Pages became the TD's.
    pub fn add_children(&self, _: &impl Right, pages: u64) {
        self.chldcnt.fetch_add(pages, Ordering::AcqRel);
    }
    /// Pages are no longer the TD's.
    pub fn remove_children(&self, _: &impl Right, pages: u64) {
        self.chldcnt.fetch_sub(pages, Ordering::AcqRel);
    }
    /// An address as the TD's key reads it.
    pub fn keyed(&self, hpa: Hpa) -> KeyedHpa {
        KeyedHpa::new(hpa, self.hkid)
    }
    /// The VPID of VM `vm` of this TD (0: L1): HKID in 15:2; 0 where it does not fit (spec: host-td.md 5.3).
    pub fn vpid(&self, vm: u16) -> u16 {
        if self.hkid.0 >= 4096 {
            0
        } else {
            self.hkid.0 << 2 | vm
        }
    }
    /// The VPIDs of all VMs that this TD may have.
    pub fn vpids(&self) -> [u16; 4] {
        [self.vpid(0), self.vpid(1), self.vpid(2), self.vpid(3)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_tracked_when_the_epoch_moved_and_the_old_vcpus_left() {
        let right = crate::call::Sticky::new();
        let mut epoch = Epoch::default();
        epoch.reset(&right);
        assert!(!epoch.tracked(1));
        let entered = epoch.enter(&right);
        let commit = Commit::new();
        epoch.advance(&commit);
        let _ = commit.done();
        assert!(!epoch.tracked(1));
        epoch.leave(&right, entered);
        assert!(epoch.tracked(1));
        assert!(epoch.tracked(0));
        assert!(!epoch.tracked(2));
        assert!(!epoch.tracked(1 << 63));
    }
}
