//! From nothing to a TD that runs (spec: host-td.md 2; `KVM_TDX_INIT_VM` to `KVM_TDX_FINALIZE_VM`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tdx_abi::Status;
use tdx_call::host::{
    tdh_mem_page_add, tdh_mng_addcx, tdh_mng_create, tdh_mng_init, tdh_mng_key_config,
    tdh_mr_extend, tdh_mr_finalize,
};
use tdx_call::{CallError, GpaMapping, HostMemory, SeamcallLp, Tdr};
use x86_arch::{Gpa, Hpa, PAGE_SIZE};

use crate::bringup::one_per_package;
use crate::seam::retry;
use crate::shared_ept::SharedEpt;
use crate::td::{PrivatePage, TdMemory};
use crate::{Host, HostError, Lp, Td, TdConfig};

/// Initial memory of a TD: `KVM_TDX_INIT_MEM_REGION`. An interrupted region goes on where it stopped.
#[derive(Debug)]
pub struct MemRegion<'a> {
    gpa: u64,
    size: u64,
    bytes: &'a [u8],
    measured: bool,
    done: u64,
    /// The page at `done` is in the TD already, and this many bytes of it are measured.
    added: Option<u64>,
}

/// How much of a region is in the TD, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BuildProgress {
    pub done: u64,
    pub total: u64,
}

impl<'a> MemRegion<'a> {
    /// `size` bytes at `gpa`, both 4 KiB aligned: `bytes`, then zeros. If `measured`, the content goes into MRTD.
    pub fn new(gpa: Gpa, size: u64, bytes: &'a [u8], measured: bool) -> Result<Self, HostError> {
        let fits = bytes.len() as u64 <= size && gpa.raw().checked_add(size).is_some();
        if !fits || !gpa.is_aligned(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(HostError::BadRange { gpa, size });
        }
        Ok(Self {
            gpa: gpa.raw(),
            size,
            bytes,
            measured,
            done: 0,
            added: None,
        })
    }
    pub fn progress(&self) -> BuildProgress {
        BuildProgress {
            done: self.done,
            total: self.size,
        }
    }
    /// The next page's content.
    fn page(&self) -> [u8; PAGE_SIZE as usize] {
        let mut page = [0; PAGE_SIZE as usize];
        let from = self.bytes.len().min(self.done as usize);
        let piece = &self.bytes[from..self.bytes.len().min(from + page.len())];
        page[..piece.len()].copy_from_slice(piece);
        page
    }
}

impl Td {
    /// Creates a TD: key ID, TDR, keys on every package, TDCS, TD_PARAMS. A failure takes back what was built.
    ///
    /// `kick` must make every vCPU of this TD that is inside it leave soon; where one thread runs all vCPUs it
    /// has nothing to do.
    pub fn create<L: SeamcallLp, M: HostMemory>(
        host: &Host<M>,
        lps: &mut [Lp<L>],
        config: TdConfig,
        kick: impl Fn() + Send + Sync + 'static,
    ) -> Result<Td, HostError> {
        let params = config.to_params(host.info())?;
        let hkid = host.hkids().take()?;
        let pages = || {
            let shared = SharedEpt::new(host, config.ept_levels())?;
            match host.pages().take() {
                Ok(tdr) => Ok((tdr, shared)),
                Err(none) => {
                    let pages = shared.into_pages();
                    pages.for_each(|page| host.pages().give_back(page));
                    Err(none)
                }
            }
        };
        let (tdr, shared) = pages().inspect_err(|_| host.hkids().give_back(hkid))?;
        let td = Td {
            config,
            tdr: Tdr(tdr),
            hkid,
            finalized: AtomicBool::new(false),
            memory: Mutex::new(TdMemory::new(shared)),
            kick: Box::new(kick),
        };
        match td.initialise(host, lps, &params) {
            Ok(()) => Ok(td),
            Err(failure) => match td.destroy(host, lps, Vec::new()) {
                Err(HostError::Leaked(mut leak)) => {
                    leak.after = Some(failure);
                    Err(HostError::Leaked(leak))
                }
                _ => Err(failure),
            },
        }
    }

    fn initialise<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        params: &[u8; 1024],
    ) -> Result<(), HostError> {
        let Some(first) = lps.first_mut() else {
            return Err(HostError::NoProcessors);
        };
        let tdr = self.tdr;
        retry(|| tdh_mng_create(&mut first.seam, tdr, self.hkid))?;
        self.lock().tdr_created = true;
        for lp in one_per_package(lps) {
            retry(|| tdh_mng_key_config(&mut lp.seam, tdr))?;
        }
        let lp = &mut lps[0].seam;
        for _ in 0..host.info().tdcs_pages {
            self.add_control_page(host, |page| tdh_mng_addcx(lp, page, tdr))?;
        }
        let scratch = host.zeroed_page()?;
        let done = host
            .memory()
            .write(scratch, params)
            .map_err(HostError::from)
            .and_then(|()| retry(|| tdh_mng_init(lp, tdr, scratch)));
        host.memory().clear_page(scratch)?;
        host.pages().give_back(scratch);
        done.map(|_| ())
    }

    /// Gives the TD a page by one of MNG.ADDCX, VP.CREATE and VP.ADDCX and remembers it for teardown.
    pub(crate) fn add_control_page<M: HostMemory>(
        &self,
        host: &Host<M>,
        mut leaf: impl FnMut(Hpa) -> Result<Status, CallError>,
    ) -> Result<Hpa, HostError> {
        let page = host.pages().take()?;
        match retry(|| leaf(page)) {
            Ok(_) => {
                self.lock().control.push(page);
                Ok(page)
            }
            Err(refused) => {
                host.pages().give_back(page);
                Err(refused)
            }
        }
    }

    /// Adds at most `max_pages` of a region: PAGE.ADD, then sixteen MR.EXTEND if it is measured, page by page.
    ///
    /// On an error the region keeps its progress: call again to go on.
    pub fn init_mem_region<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        region: &mut MemRegion<'_>,
        max_pages: u64,
    ) -> Result<BuildProgress, HostError> {
        if self.is_finalized() {
            return Err(HostError::WrongStage {
                wanted: "being built",
            });
        }
        let source = host.pages().take()?;
        let pages = max_pages.min((region.size - region.done) / PAGE_SIZE);
        let done = (0..pages).try_for_each(|_| self.add_page(host, lp, region, source));
        host.memory().clear_page(source)?;
        host.pages().give_back(source);
        done.map(|()| region.progress())
    }

    fn add_page<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        region: &mut MemRegion<'_>,
        source: Hpa,
    ) -> Result<(), HostError> {
        let gpa = region.gpa + region.done;
        let mut extended = match region.added {
            Some(extended) => extended,
            None => self
                .copy_page(host, lp, gpa, &region.page(), source)
                .map(|()| 0)?,
        };
        region.added = Some(extended);
        while region.measured && extended < PAGE_SIZE {
            retry(|| tdh_mr_extend(lp, Gpa::new(gpa + extended), self.tdr))?;
            extended += 256;
            region.added = Some(extended);
        }
        region.added = None;
        region.done += PAGE_SIZE;
        Ok(())
    }

    fn copy_page<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        gpa: u64,
        bytes: &[u8],
        source: Hpa,
    ) -> Result<(), HostError> {
        let mut memory = self.lock();
        if !memory.is_ram(gpa, PAGE_SIZE) {
            return Err(HostError::BadRange {
                gpa: Gpa::new(gpa),
                size: PAGE_SIZE,
            });
        }
        if memory.private_page(gpa).is_some() {
            return Err(HostError::AlreadyMapped(Gpa::new(gpa)));
        }
        memory.ensure_sept(self, host, lp, gpa, 0)?;
        host.memory().write(source, bytes)?;
        let target = host.pages().take()?;
        let mapping = GpaMapping::page_4k(Gpa::new(gpa));
        if let Err(refused) = retry(|| tdh_mem_page_add(lp, mapping, self.tdr, target, source)) {
            host.pages().give_back(target);
            return Err(refused);
        }
        let page = PrivatePage {
            hpa: target,
            large: false,
        };
        memory.private.insert(gpa, page);
        memory.stats.added += 1;
        Ok(())
    }

    /// TDH.MR.FINALIZE: the measurement is closed and the TD may run.
    pub fn finalize<L: SeamcallLp>(&self, lp: &mut L) -> Result<(), HostError> {
        retry(|| tdh_mr_finalize(lp, self.tdr))?;
        self.finalized.store(true, Ordering::Release);
        Ok(())
    }
}
