//! Operands: what many leaves take and check alike, named B1 to B8 in the specification (spec: host-platform.md 6).

use crate::call::{Call, Right};
use crate::leaf::Row;
use crate::lock::{Exclusive, Shared, Side};
use crate::lock_order::{Held, Lock, Order};
use crate::machine::Machine;
use crate::pamt::{PageSize, PageType, PageUse, Walk, WalkError, Want};
use crate::refusal::{Broken, BusyOn, Refusal, Stop};
use crate::sept::{Details, EntryGuard, SeptState, SeptStates, Slot, WalkEnd};
use crate::state::{LifeCycle, VcpuState};
use crate::td::{MIN_TDCS_PAGES, Td};
use crate::vp::Vp;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering;
use tdx_abi::{OperandId, Status};
use x86_arch::{Gpa, Gpr, Hkid, Hpa, KeyedHpa};

/// The operand id of a general-purpose register.
pub const fn operand_of(reg: Gpr) -> OperandId {
    OperandId(reg as u32)
}

fn state_of(entry: &EntryGuard) -> Result<SeptState, Broken> {
    let state = entry.entry().state();
    state.ok_or(Broken("a Secure-EPT entry in no known state"))
}

/// GPA and level of a mapping operand (B6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    pub gpa: Gpa,
    pub level: u8,
}

/// A TD held through its TDR page; holds the locks until it is dropped.
pub enum TdrShared<'m> {
    /// Named by an operand: the whole path is locked (B2).
    Explicit(Held<'m, Walk<'m>>),
    /// The owner of another page: only its own entry is locked (B3).
    Implicit(Held<'m, Shared<'m, PageUse>>),
    /// The same, while nobody else may hold the TDR.
    Alone(Held<'m, Exclusive<'m, PageUse>>),
}

/// A TD held exclusively: its plain fields may change.
pub struct TdrExclusive<'m>(Held<'m, Walk<'m>>);

/// A vCPU held through its TDVPR page.
pub struct TdvprHold<'m>(Held<'m, Walk<'m>>);

// The guards below are only made after the page's type was checked, and it cannot change while they are held.

impl Deref for TdrShared<'_> {
    type Target = Td;
    fn deref(&self) -> &Td {
        let page: &PageUse = match self {
            TdrShared::Explicit(walk) => &walk.page,
            TdrShared::Implicit(page) => page,
            TdrShared::Alone(page) => page,
        };
        match page {
            PageUse::Tdr(td) => td,
            _ => unreachable!("the guard was made for a TDR"),
        }
    }
}
impl Deref for TdrExclusive<'_> {
    type Target = Td;
    fn deref(&self) -> &Td {
        match &*self.0.page {
            PageUse::Tdr(td) => td,
            _ => unreachable!("the guard was made for a TDR"),
        }
    }
}
impl DerefMut for TdrExclusive<'_> {
    fn deref_mut(&mut self) -> &mut Td {
        match self.0.page.get_mut() {
            Some(PageUse::Tdr(td)) => td,
            _ => unreachable!("the guard was made for a TDR"),
        }
    }
}
impl Deref for TdvprHold<'_> {
    type Target = Vp;
    fn deref(&self) -> &Vp {
        match &*self.0.page {
            PageUse::Tdvpr(vp) => vp,
            _ => unreachable!("the guard was made for a TDVPR"),
        }
    }
}
impl DerefMut for TdvprHold<'_> {
    /// For a hold that was taken exclusively.
    fn deref_mut(&mut self) -> &mut Vp {
        match self.0.page.get_mut() {
            Some(PageUse::Tdvpr(vp)) => vp,
            _ => unreachable!("the guard was made for a TDVPR"),
        }
    }
}

impl TdvprHold<'_> {
    /// The TD that owns the vCPU.
    pub fn owner(&self) -> Hpa {
        self.0.entry.owner()
    }
}

impl<'m, M: Machine> Call<'m, M> {
    // --- B1: explicit private pages ---

    /// A 4 KiB page operand: aligned, no key ID, below 2^52.
    pub fn page_address(&self, reg: Gpr) -> Result<Hpa, Stop> {
        self.page_address_of(self.get(reg), operand_of(reg), PageSize::Size4K)
    }
    /// The same for a value that does not come straight from a register.
    pub fn page_address_of(&self, raw: u64, op: OperandId, size: PageSize) -> Result<Hpa, Stop> {
        let mask = self.module.sys()?.hkid_mask();
        if !raw.is_multiple_of(size.bytes()) || raw >= 1 << 52 || raw & mask != 0 {
            return Err(Refusal::Invalid(op).into());
        }
        Ok(Hpa::new(raw))
    }
    /// Locks a 4 KiB page operand that must have this use (B1).
    pub fn page(&self, reg: Gpr, want: Want, use_: PageType) -> Result<Held<'m, Walk<'m>>, Stop> {
        self.page_at(self.get(reg), operand_of(reg), want, use_)
    }
    /// The same for a value that does not come straight from a register.
    pub fn page_at(
        &self,
        raw: u64,
        op: OperandId,
        want: Want,
        use_: PageType,
    ) -> Result<Held<'m, Walk<'m>>, Stop> {
        let hpa = self.page_address_of(raw, op, PageSize::Size4K)?;
        // A page that is still free is one that the call adds.
        let lock = match use_ {
            PageType::Nda => Lock::Page,
            _ => Lock::ControlPage,
        };
        let walk = self.walk(lock, hpa, op, want, Some(PageSize::Size4K))?;
        if walk.size != PageSize::Size4K || walk.page.page_type() != use_ {
            return Err(Refusal::PageUse(op).into());
        }
        Ok(walk)
    }
    /// Walks the PAMT, naming `op` where it fails.
    pub fn walk(
        &self,
        lock: Lock,
        hpa: Hpa,
        op: OperandId,
        want: Want,
        size: Option<PageSize>,
    ) -> Result<Held<'m, Walk<'m>>, Stop> {
        let tried = match self.module.pamt()?.walk(hpa, want, size) {
            Ok(walk) => Ok(walk),
            Err(WalkError::OutOfRange) => return Err(Refusal::NotInTdmr(op).into()),
            Err(WalkError::Contended(why)) => Err(why),
        };
        Ok(self.hold(lock, tried).busy(op)?)
    }
    /// Locks a free range of this size (AUG); all its 4 KiB pages must be free.
    pub fn free_range(&self, reg: Gpr, size: PageSize) -> Result<Held<'m, Walk<'m>>, Stop> {
        let op = operand_of(reg);
        let hpa = self.page_address_of(self.get(reg), op, size)?;
        let walk = self.walk(Lock::Page, hpa, op, Want::Exclusive, Some(size))?;
        let free = walk.size == size
            && walk.page.page_type() == PageType::Nda
            && (size == PageSize::Size4K || self.module.pamt()?.all_free_below(hpa));
        match free {
            true => Ok(walk),
            false => Err(Refusal::PageUse(op).into()),
        }
    }

    // --- B2, B3: the TDR; TDVPR ---

    /// A TDR operand, shared (B2).
    pub fn tdr_shared(&self, reg: Gpr) -> Result<TdrShared<'m>, Stop> {
        self.tdr_shared_at(self.get(reg), operand_of(reg))
    }
    /// The same for a value that carries flags beside the address.
    pub fn tdr_shared_at(&self, raw: u64, op: OperandId) -> Result<TdrShared<'m>, Stop> {
        let walk = self.page_at(raw, op, Want::Shared, PageType::Tdr)?;
        Ok(TdrShared::Explicit(walk))
    }
    /// A TDR operand, exclusive (B2).
    pub fn tdr_exclusive(&self, reg: Gpr) -> Result<TdrExclusive<'m>, Stop> {
        self.tdr_exclusive_at(self.get(reg), operand_of(reg))
    }
    /// The same for a register that was overwritten by its default.
    pub fn tdr_exclusive_at(&self, raw: u64, op: OperandId) -> Result<TdrExclusive<'m>, Stop> {
        let walk = self.page_at(raw, op, Want::Exclusive, PageType::Tdr)?;
        Ok(TdrExclusive(walk))
    }
    /// The TD that owns another page (B3).
    pub fn tdr_of(&self, owner: Hpa) -> Result<TdrShared<'m>, Stop> {
        self.module.implicit_tdr(owner, &self.lp_state.order)
    }
    /// A TDVPR operand.
    pub fn tdvpr(&self, reg: Gpr, want: Want) -> Result<TdvprHold<'m>, Stop> {
        self.tdvpr_at(self.get(reg), operand_of(reg), want)
    }
    /// The same for a value that carries flags, or for a register that was overwritten by its default.
    pub fn tdvpr_at(&self, raw: u64, op: OperandId, want: Want) -> Result<TdvprHold<'m>, Stop> {
        Ok(TdvprHold(self.page_at(raw, op, want, PageType::Tdvpr)?))
    }

    // --- B4: the TD's state ---

    /// Not fatal, keys configured, TDCS there (the first half of B4).
    pub fn td_has_tdcs(&self, td: &Td) -> Result<(), Refusal> {
        if td.is_fatal() {
            return Err(Status::TD_FATAL.into());
        }
        if td.life_cycle != LifeCycle::KeysConfigured {
            return Err(Status::TD_KEYS_NOT_CONFIGURED.into());
        }
        if td.tdcx.len() < MIN_TDCS_PAGES {
            return Err(Status::TDCS_NOT_ALLOCATED.into());
        }
        Ok(())
    }
    /// B4 with the OP_STATE lock shared.
    pub fn td_state<'t>(&self, td: &'t Td, row: &Row) -> Result<Held<'m, Shared<'t, ()>>, Refusal> {
        self.td_has_tdcs(td)?;
        let lock = self
            .hold(Lock::OpState, td.op_state_lock.shared(Side::Host))
            .busy(OperandId::OP_STATE)?;
        self.op_state_allowed(td, row)?;
        Ok(lock)
    }
    /// B4 without the OP_STATE lock, for leaves that hold the TDR exclusively.
    pub fn td_state_unlocked(&self, td: &Td, row: &Row) -> Result<(), Refusal> {
        self.td_has_tdcs(td)?;
        self.op_state_allowed(td, row)
    }
    pub fn op_state_allowed(&self, td: &Td, row: &Row) -> Result<(), Refusal> {
        match row.op_states.contains(td.op_state()) {
            true => Ok(()),
            false => Err(Status::OP_STATE_INCORRECT.into()),
        }
    }

    // --- B5: shared memory ---

    /// An address of memory that belongs to the host, aligned to its size (B5).
    pub fn shared_hpa(&self, reg: Gpr, size: u64) -> Result<KeyedHpa, Stop> {
        self.shared_hpa_of(self.get(reg), operand_of(reg), size)
    }
    pub fn shared_hpa_of(&self, raw: u64, op: OperandId, size: u64) -> Result<KeyedHpa, Stop> {
        match raw.is_multiple_of(size) {
            true => self
                .module
                .shared_memory(raw, size)?
                .ok_or(Refusal::Invalid(op).into()),
            false => Err(Refusal::Invalid(op).into()),
        }
    }
    /// Reads host memory; poison there is the machine's fault, not the module's.
    pub fn read_shared(&self, from: KeyedHpa, to: &mut [u8]) -> Result<(), Stop> {
        let read = self.machine().read(from, to);
        read.map_err(|_| Broken("machine check on host memory").into())
    }
    pub fn write_shared(&self, to: KeyedHpa, from: &[u8]) -> Result<(), Stop> {
        let written = self.machine().write_outside(to, from);
        written.map_err(|_| Broken("machine check on host memory").into())
    }

    // --- B6, B7, B8: guest addresses and the Secure EPT ---

    /// RCX, as it was before the defaults, as GPA and level with the level in this range (B6).
    pub fn mapping(&self, raw: u64, min: u8, max: u8) -> Result<Mapping, Refusal> {
        let level = (raw & 7) as u8;
        let gpa = raw & 0x000F_FFFF_FFFF_F000;
        let aligned = level <= 4 && gpa.is_multiple_of(4096 << (9 * level as u32));
        if raw & 0xFFF0_0000_0000_0FF8 != 0 || level < min || level > max || !aligned {
            return Err(Refusal::Invalid(OperandId::RCX));
        }
        Ok(Mapping {
            gpa: Gpa::new(gpa),
            level,
        })
    }
    /// The GPA must be private (B7).
    pub fn private_gpa(&self, td: &Td, gpa: Gpa) -> Result<(), Refusal> {
        match td.config.is_private(gpa) {
            true => Ok(()),
            false => Err(Refusal::Invalid(OperandId::RCX)),
        }
    }
    /// Shows an entry to the host in RCX and RDX.
    pub fn show(&mut self, details: Details) {
        self.set(Gpr::Rcx, details.entry);
        self.set(Gpr::Rdx, details.level_and_state);
    }
    /// Walks the Secure EPT to the mapping's level; a walk that stops early shows where.
    pub fn sept_walk(&mut self, td: &Td, at: Mapping) -> Result<Slot, Stop> {
        match td.sept.walk(at.gpa, at.level) {
            Some(WalkEnd::Reached(slot)) => Ok(slot),
            Some(WalkEnd::Stopped(slot)) => {
                self.show(slot.entry().details(slot.level));
                let status = Status::EPT_WALK_FAILED.with_operand(OperandId::RCX);
                Err(status.into())
            }
            None => Err(Broken("Secure EPT without a page it names").into()),
        }
    }
    /// Walks to a leaf that the guest can access; otherwise shows where the walk ended.
    pub fn accessible_leaf(&mut self, td: &Td, gpa: Gpa) -> Result<Slot, Stop> {
        let missing = Broken("Secure EPT without a page it names");
        let slot = td.sept.walk_to_end(gpa).ok_or(missing)?;
        let entry = slot.entry();
        if !entry.is_leaf() || !entry.is_accessible() {
            self.show(entry.details(slot.level));
            let status = Status::EPT_ENTRY_NOT_PRESENT.with_operand(OperandId::RCX);
            return Err(status.into());
        }
        Ok(slot)
    }
    /// The locked entry's state must be one of these; otherwise shows it.
    pub fn entry_state(
        &mut self,
        entry: &EntryGuard,
        allowed: SeptStates,
    ) -> Result<SeptState, Stop> {
        let state = state_of(entry)?;
        if !allowed.contains(state) {
            return Err(self.wrong_state(entry).into());
        }
        Ok(state)
    }
    /// `TDX_EPT_ENTRY_STATE_INCORRECT`, with the entry shown.
    pub fn wrong_state(&mut self, entry: &EntryGuard) -> Refusal {
        self.show(entry.entry().details(entry.level()));
        let status = Status::EPT_ENTRY_STATE_INCORRECT;
        status.with_operand(OperandId::RCX).into()
    }
    /// Locks the entry of a page that the Secure EPT names, and nothing above it.
    pub fn mapped_page(&self, hpa: Hpa, size: PageSize) -> Result<Held<'m, Walk<'m>>, Stop> {
        let tried = match self.module.pamt()?.lock_alone(hpa, size) {
            Ok(walk) => Ok(walk),
            Err(WalkError::Contended(why)) => Err(why),
            Err(WalkError::OutOfRange) => {
                return Err(Broken("a Secure-EPT entry names a page in no TDMR").into());
            }
        };
        Ok(self.hold(Lock::Page, tried).busy(OperandId::RCX)?)
    }
    /// While the TD runs, what is changed must be blocked and no TLB may hold it (spec: host-memory.md 5).
    pub fn blocked_and_tracked(
        &mut self,
        td: &Td,
        entry: &EntryGuard,
        bepoch: u64,
    ) -> Result<(), Stop> {
        let state = state_of(entry)?;
        if !td.op_state().tlb_tracking_required() || !state.needs_tlb_tracking() {
            return Ok(());
        }
        if !state.is_blocked() {
            self.show(entry.entry().details(entry.level()));
            let status = Status::GPA_RANGE_NOT_BLOCKED;
            return Err(status.with_operand(OperandId::RCX).into());
        }
        match td.epoch.tracked(bepoch) {
            true => Ok(()),
            false => {
                let status = Status::TLB_TRACKING_NOT_DONE;
                Err(status.with_operand(OperandId::RCX).into())
            }
        }
    }
    /// A page becomes a control structure: its bytes are 0 under this key from now on.
    pub fn clear_control_page(&self, page: Hpa, hkid: Hkid) {
        self.machine().clear_page(KeyedHpa::new(page, hkid));
    }
    /// Locks the entry; a lost try shows it.
    pub fn lock_entry(&mut self, slot: &Slot) -> Result<Held<'m, EntryGuard>, Refusal> {
        let before = slot.entry();
        let tried = self.hold(Lock::SeptEntry, slot.lock(Side::Host));
        tried.map_err(|why| {
            self.show(before.details(slot.level));
            Refusal::Busy(OperandId::RCX, why)
        })
    }

    // --- vCPU association ---

    /// Checks the vCPU's state and takes it for this processor (spec: host-td.md 6). The association stays although
    /// the call may be refused later. `Ok(true)` if the vCPU was free before.
    pub fn associate(&self, td: &Td, vp: &Vp, allowed: &[VcpuState]) -> Result<bool, Refusal> {
        if !allowed.contains(&vp.state()) {
            return Err(Status::VCPU_STATE_INCORRECT.into());
        }
        let right = self.sticky();
        self.take_vcpu(td, vp, &right)
    }
    /// The association alone.
    pub fn take_vcpu(&self, td: &Td, vp: &Vp, right: &impl Right) -> Result<bool, Refusal> {
        match vp.associate(right, self.lp) {
            Ok(new) => {
                if new {
                    td.num_assoc_vcpus.fetch_add(1, Ordering::AcqRel);
                }
                Ok(new)
            }
            Err(_) => Err(Status::VCPU_ASSOCIATED.into()),
        }
    }
}

impl<M: Machine> crate::Module<M> {
    /// The TD that owns another page (B3): its entry alone is locked, shared.
    pub fn implicit_tdr<'m>(&'m self, owner: Hpa, order: &'m Order) -> Result<TdrShared<'m>, Stop> {
        let entry = self
            .pamt()?
            .entry(owner)
            .ok_or(Broken("a page's owner is not in any TDMR"))?;
        let page = order
            .hold(Lock::ImplicitTdr, entry.lock().shared(Side::Host))
            .busy(OperandId::TDR)?;
        match &**page {
            PageUse::Tdr(_) => Ok(TdrShared::Implicit(page)),
            _ => Err(Broken("a page's owner is no TDR").into()),
        }
    }
    /// The same, held exclusively: TDH.VP.INIT version 1 (releases after 1.5.01).
    pub fn implicit_tdr_alone<'m>(
        &'m self,
        owner: Hpa,
        order: &'m Order,
    ) -> Result<TdrShared<'m>, Stop> {
        let entry = self
            .pamt()?
            .entry(owner)
            .ok_or(Broken("a page's owner is not in any TDMR"))?;
        let page = order
            .hold(Lock::ImplicitTdr, entry.lock().exclusive(Side::Host))
            .busy(OperandId::TDR)?;
        match &**page {
            PageUse::Tdr(_) => Ok(TdrShared::Alone(page)),
            _ => Err(Broken("a page's owner is no TDR").into()),
        }
    }
    /// A range of host memory: below 2^52, outside the module's own range, with a key ID that is not private (B5
    /// without alignment). `Ok(None)` if it is not.
    pub fn shared_memory(&self, raw: u64, size: u64) -> Result<Option<KeyedHpa>, Broken> {
        let sys = self.sys()?;
        if raw >= 1 << 52 {
            return Ok(None);
        }
        let at = sys.split(raw);
        let start = at.hpa.raw();
        let module = &self.platform.seamrr;
        let clear = start + size <= module.start || module.end <= start;
        Ok((clear && at.hkid.0 < sys.hkid_min).then_some(at))
    }
}
