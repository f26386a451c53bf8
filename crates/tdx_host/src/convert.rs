//! Conversions between private and shared memory, and what it takes to free a private page of a running TD
//! (spec: host-memory.md 5; linux.md 3.2 "zap").

use tdx_abi::Status;
use tdx_call::host::{
    tdh_mem_page_demote, tdh_mem_page_remove, tdh_mem_range_block, tdh_mem_track,
    tdh_phymem_page_wbinvd,
};
use tdx_call::{CallError, GpaMapping, HostMemory, SeamcallLp};
use x86_arch::{Gpa, Hpa, PAGE_SIZE};

use crate::pages::LARGE_PAGE;
use crate::seam::retry;
use crate::td::{PrivatePage, TdMemory};
use crate::{Host, HostError, Td};

/// How often the host asks again whether every vCPU has left the TD since a TRACK, kicking each time.
const TRACK_TRIES: u32 = 1_000_000;
/// How often a leaf that needs the tracking done is tried before TRACK is repeated, and how often that is done.
const EXIT_TRIES: u32 = 1000;
const TRACK_ROUNDS: u32 = 1000;
/// The TDs of this library have no L2 VMs, and so no Secure EPT pages for them.
const NO_L2: [u64; 3] = [u64::MAX; 3];

impl Td {
    /// Makes guest RAM shared: private pages in the range are taken from the TD, shared ones come on first access.
    ///
    /// `gpa` has the shared bit clear. Idempotent, so a caller may repeat it after an error.
    pub fn make_shared<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        gpa: Gpa,
        size: u64,
    ) -> Result<(), HostError> {
        let (start, end) = self.checked_range(gpa, size)?;
        let mut memory = self.lock();
        memory.remove_private(self, host, lp, start, end)?;
        memory.shared_gpas.insert(start, end);
        Ok(())
    }

    /// Makes guest RAM private: shared pages in the range are dropped, private ones come when the guest accepts.
    pub fn make_private<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        gpa: Gpa,
        size: u64,
    ) -> Result<(), HostError> {
        let (start, end) = self.checked_range(gpa, size)?;
        let shared_bit = self.config.shared_bit();
        let mut memory = self.lock();
        let mut dropped = Vec::new();
        for page in memory.shared.backed(start, end) {
            dropped.extend(memory.shared.unmap(host, page, shared_bit)?);
        }
        if !dropped.is_empty() && self.is_finalized() {
            // The next entry of each vCPU drops its translations, those of the shared half too. A second TRACK
            // succeeds when every vCPU that was inside at the first has left: the module does not look after
            // shared pages otherwise.
            if let Err(why) = self.track(lp).and_then(|()| self.track(lp)) {
                // A vCPU may still reach them.
                memory.quarantine.extend(dropped);
                memory.stats.shared = memory.shared.ram_pages();
                return Err(why);
            }
        }
        for page in dropped {
            host.memory().clear_page(page)?;
            host.pages().give_back(page);
        }
        memory.shared_gpas.remove(start, end);
        memory.stats.shared = memory.shared.ram_pages();
        Ok(())
    }

    /// Whether the guest declared this page (shared bit clear) shared.
    pub fn is_shared(&self, gpa: Gpa) -> bool {
        self.lock().shared_gpas.contains(gpa.raw())
    }

    fn checked_range(&self, gpa: Gpa, size: u64) -> Result<(u64, u64), HostError> {
        let (start, ram) = (gpa.raw(), self.lock().is_ram(gpa.raw(), size));
        if size == 0 || !ram || !start.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE)
        {
            return Err(HostError::BadRange { gpa, size });
        }
        Ok((start, start + size))
    }

    /// TDH.MEM.TRACK, then every vCPU out of the TD.
    pub(crate) fn track<L: SeamcallLp>(&self, lp: &mut L) -> Result<(), HostError> {
        self.until_all_left(Status::PREVIOUS_TLB_EPOCH_BUSY, TRACK_TRIES, || {
            retry(|| tdh_mem_track(lp, self.tdr))
        })?;
        (self.kick)();
        Ok(())
    }

    /// Repeats `act` while a vCPU that has not left the TD yet makes it fail with `status`, `tries` times at most.
    fn until_all_left<T>(
        &self,
        status: Status,
        tries: u32,
        mut act: impl FnMut() -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        for _ in 0..tries {
            match act() {
                Err(failure) if failure.code() == Some(status) => {
                    (self.kick)();
                    std::thread::yield_now();
                }
                done => return done,
            }
        }
        act()
    }
}

/// A leaf on an entry that must be blocked and tracked, such as PAGE.REMOVE, with what it takes to get there.
fn on_blocked<L: SeamcallLp>(
    td: &Td,
    lp: &mut L,
    gpa: u64,
    level: u8,
    act: impl Fn(&mut L) -> Result<(), CallError>,
) -> Result<(), HostError> {
    for _ in 0..TRACK_ROUNDS {
        let done = td.until_all_left(Status::TLB_TRACKING_NOT_DONE, EXIT_TRIES, || {
            retry(|| act(lp))
        });
        match done.as_ref().map_err(HostError::code) {
            // The entry was blocked after the last TRACK: a BLOCK that met a held lock and was repeated too late.
            Err(Some(Status::TLB_TRACKING_NOT_DONE)) => td.track(lp)?,
            // Somebody took the block back, or a BLOCK went missing.
            Err(Some(Status::GPA_RANGE_NOT_BLOCKED)) => {
                block(td, lp, gpa, level)?;
                td.track(lp)?;
            }
            _ => return done,
        }
    }
    retry(|| act(lp))
}

impl TdMemory {
    /// Takes all private pages of a range from the TD: block, track, remove, flush, clear.
    fn remove_private<L: SeamcallLp, M: HostMemory>(
        &mut self,
        td: &Td,
        host: &Host<M>,
        lp: &mut L,
        start: u64,
        end: u64,
    ) -> Result<(), HostError> {
        for edge in [start, end] {
            match self.private_page(edge) {
                Some((gpa, page)) if page.large && gpa != edge => {
                    self.demote(td, host, lp, gpa)?;
                }
                _ => {}
            }
        }
        let pages: Vec<(u64, PrivatePage)> = self
            .private
            .range(start..end)
            .map(|(&gpa, &page)| (gpa, page))
            .collect();
        if pages.is_empty() {
            return Ok(());
        }
        for &(gpa, page) in &pages {
            block(td, lp, gpa, page.level())?;
        }
        if td.is_finalized() {
            td.track(lp)?;
        }
        for (gpa, page) in pages {
            let level = page.level();
            on_blocked(td, lp, gpa, level, |lp| {
                tdh_mem_page_remove(lp, mapping(gpa, level), td.tdr).map(|_| ())
            })?;
            self.private.remove(&gpa);
            self.stats.removed += page.bytes() / PAGE_SIZE;
            let freed = flush_private(td, host, lp, page).and_then(|()| free_private(host, page));
            if let Err(why) = freed {
                let small = (0..page.bytes()).step_by(PAGE_SIZE as usize);
                self.quarantine
                    .extend(small.map(|offset| Hpa::new(page.hpa.raw() + offset)));
                return Err(why);
            }
        }
        Ok(())
    }

    /// Breaks a 2 MiB private page up into 4 KiB pages; content and acceptance stay.
    pub(crate) fn demote<L: SeamcallLp, M: HostMemory>(
        &mut self,
        td: &Td,
        host: &Host<M>,
        lp: &mut L,
        gpa: u64,
    ) -> Result<(), HostError> {
        let Some(&page) = self.private.get(&gpa).filter(|page| page.large) else {
            return Err(HostError::NotMapped(Gpa::new(gpa)));
        };
        block(td, lp, gpa, 1)?;
        if td.is_finalized() {
            td.track(lp)?;
        }
        let table = host.pages().take()?;
        let demoted = on_blocked(td, lp, gpa, 1, |lp| {
            tdh_mem_page_demote(lp, mapping(gpa, 1), td.tdr, false, table, NO_L2).map(|_| ())
        });
        if let Err(refused) = demoted {
            host.pages().give_back(table);
            return Err(refused);
        }
        self.sept.insert((1, gpa), table);
        self.private.remove(&gpa);
        for offset in (0..LARGE_PAGE).step_by(PAGE_SIZE as usize) {
            let hpa = Hpa::new(page.hpa.raw() + offset);
            self.private
                .insert(gpa + offset, PrivatePage { hpa, large: false });
        }
        self.stats.demoted += 1;
        Ok(())
    }
}

fn mapping(gpa: u64, level: u8) -> GpaMapping {
    GpaMapping::new(Gpa::new(gpa), level)
}

/// TDH.MEM.RANGE.BLOCK of one leaf; a leaf blocked by an earlier attempt is fine.
fn block<L: SeamcallLp>(td: &Td, lp: &mut L, gpa: u64, level: u8) -> Result<(), HostError> {
    // ALREADY_BLOCKED has the error bit clear, so it comes back as done.
    retry(|| tdh_mem_range_block(lp, mapping(gpa, level), td.tdr)).map(|_| ())
}

/// Flushes a page that left a running TD out of the caches under the TD's key.
fn flush_private<L: SeamcallLp, M: HostMemory>(
    td: &Td,
    host: &Host<M>,
    lp: &mut L,
    page: PrivatePage,
) -> Result<(), HostError> {
    for offset in (0..page.bytes()).step_by(PAGE_SIZE as usize) {
        let keyed = host.keyed(Hpa::new(page.hpa.raw() + offset), td.hkid);
        retry(|| tdh_phymem_page_wbinvd(lp, keyed))?;
    }
    Ok(())
}

/// Clears a page whose lines are in no cache any more, and gives it back.
pub(crate) fn free_private<M: HostMemory>(
    host: &Host<M>,
    page: PrivatePage,
) -> Result<(), HostError> {
    for offset in (0..page.bytes()).step_by(PAGE_SIZE as usize) {
        host.memory()
            .clear_page(Hpa::new(page.hpa.raw() + offset))?;
    }
    if page.large {
        host.pages().give_back_large(page.hpa);
    } else {
        host.pages().give_back(page.hpa);
    }
    Ok(())
}
