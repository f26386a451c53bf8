//! The end of a TD: flush, write back, free the key, reclaim every page (spec: host-td.md 2).

use tdx_abi::{HostLeaf, Status};
use tdx_call::host::{
    tdh_mng_key_freeid, tdh_mng_vpflushdone, tdh_phymem_cache_wb, tdh_phymem_page_reclaim,
    tdh_phymem_page_wbinvd, tdh_vp_flush,
};
use tdx_call::{HostMemory, Leaf, Progress, SeamcallLp, Tdvpr};
use x86_arch::Hpa;

use crate::bringup::one_per_package;
use crate::convert::free_private;
use crate::seam::retry;
use crate::td::{PrivatePage, TdMemory};
use crate::{Host, HostError, Lp, Td, Vcpu};

/// What teardown gave back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Teardown {
    /// 4 KiB pages that the module gave up: control, Secure EPT and private pages, the TDR last.
    pub reclaimed: u64,
    /// Of those, Secure EPT pages.
    pub sept: u64,
    /// Of those, private pages of the guest.
    pub private: u64,
    /// Pages of the host's own: shared memory, its EPT, posted-interrupt descriptors.
    pub host_pages: u64,
    /// Calls of TDH.PHYMEM.CACHE.WB, resumptions included.
    pub cache_writebacks: u32,
}

/// How often a cache write-back is resumed before it is given up (Linux's number).
const WRITEBACK_TRIES: u32 = 10_000;

impl Td {
    /// Ends the TD and gives back its key and every page. The vCPUs must all be handed in.
    ///
    /// A failure is reported as [`HostError::Leaked`] with what stayed with the module.
    pub fn destroy<L: SeamcallLp, M: HostMemory>(
        self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        vcpus: Vec<Vcpu>,
    ) -> Result<Teardown, HostError> {
        let mut report = Teardown::default();
        let made = self.lock().vcpus;
        if vcpus.len() != usize::from(made) {
            return Err(HostError::VcpuInUse {
                index: vcpus.len() as u32,
            });
        }
        let created = self.lock().tdr_created;
        let ended = match created {
            true => self.end(host, lps, &vcpus, &mut report),
            false => Ok(()),
        };
        if let Err(cause) = ended {
            let memory = self.lock();
            return Err(HostError::Leaked {
                pages: memory.pages_held(),
                first: self.tdr.0,
                cause: Box::new(cause),
            });
        }
        if !created {
            host.pages().give_back(self.tdr.0);
        }
        host.hkids().give_back(self.hkid);
        let memory = self
            .memory
            .into_inner()
            .expect("no holder of a TD's memory panics");
        for page in memory
            .descriptors
            .into_iter()
            .chain(memory.shared.into_pages())
        {
            host.memory().clear_page(page)?;
            host.pages().give_back(page);
            report.host_pages += 1;
        }
        match memory.lost {
            None => Ok(report),
            Some((pages, first, cause)) => Err(HostError::Leaked {
                pages,
                first,
                cause: Box::new(cause),
            }),
        }
    }

    fn end<L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        vcpus: &[Vcpu],
        report: &mut Teardown,
    ) -> Result<(), HostError> {
        for vcpu in vcpus {
            if let Some(lp) = vcpu.associated_lp().and_then(|index| lps.get_mut(index)) {
                flush(vcpu.tdvpr(), &mut lp.seam)?;
            }
        }
        let tdr = self.tdr;
        retry(|| tdh_mng_vpflushdone(&mut lps[0].seam, tdr))?;
        for lp in one_per_package(lps) {
            report.cache_writebacks += write_back(&mut lp.seam)?;
        }
        let lp = &mut lps[0].seam;
        retry(|| tdh_mng_key_freeid(lp, tdr))?;
        let mut memory = self.lock();
        memory.reclaim_all(host, lp, report)?;
        retry(|| tdh_phymem_page_reclaim(lp, tdr.0))?;
        let keyed = host.keyed(tdr.0, host.global_hkid());
        retry(|| tdh_phymem_page_wbinvd(lp, keyed))?;
        host.memory().clear_page(tdr.0)?;
        host.pages().give_back(tdr.0);
        memory.tdr_created = false;
        report.reclaimed += 1;
        Ok(())
    }
}

impl TdMemory {
    fn reclaim_all<L: SeamcallLp, M: HostMemory>(
        &mut self,
        host: &Host<M>,
        lp: &mut L,
        report: &mut Teardown,
    ) -> Result<(), HostError> {
        while let Some((&gpa, &page)) = self.private.first_key_value() {
            retry(|| tdh_phymem_page_reclaim(lp, page.hpa))?;
            self.private.remove(&gpa);
            let pages = page.bytes() / x86_arch::PAGE_SIZE;
            report.private += pages;
            report.reclaimed += pages;
            free_private(host, page)?;
        }
        while let Some((&at, &page)) = self.sept.first_key_value() {
            reclaim_small(host, lp, page)?;
            self.sept.remove(&at);
            report.sept += 1;
            report.reclaimed += 1;
        }
        while let Some(&page) = self.control.last() {
            reclaim_small(host, lp, page)?;
            self.control.pop();
            report.reclaimed += 1;
        }
        Ok(())
    }
}

fn reclaim_small<L: SeamcallLp, M: HostMemory>(
    host: &Host<M>,
    lp: &mut L,
    hpa: Hpa,
) -> Result<(), HostError> {
    retry(|| tdh_phymem_page_reclaim(lp, hpa))?;
    free_private(host, PrivatePage { hpa, large: false })
}

/// TDH.VP.FLUSH; a vCPU that is on no processor is fine.
pub(crate) fn flush<L: SeamcallLp>(tdvpr: Tdvpr, lp: &mut L) -> Result<(), HostError> {
    match retry(|| tdh_vp_flush(lp, tdvpr)) {
        Err(e) if e.code() == Some(Status::VCPU_NOT_ASSOCIATED) => Ok(()),
        done => done.map(|_| ()),
    }
}

/// TDH.PHYMEM.CACHE.WB of one package until it is done; how many calls it took.
fn write_back<L: SeamcallLp>(lp: &mut L) -> Result<u32, HostError> {
    let (mut calls, mut resume) = (0, false);
    loop {
        calls += 1;
        match retry(|| tdh_phymem_cache_wb(lp, resume))? {
            Progress::Done(_) => return Ok(calls),
            Progress::Interrupted(_) if calls < WRITEBACK_TRIES => resume = true,
            Progress::Interrupted(status) => {
                return Err(HostError::Refused {
                    leaf: Leaf::Host(HostLeaf::PHYMEM_CACHE_WB),
                    status,
                    rcx: 0,
                    rdx: 0,
                });
            }
        }
    }
}
