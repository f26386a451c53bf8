//! The end of a TD: flush, write back, free the key, reclaim every page (spec: host-td.md 2).

use tdx_abi::{HostLeaf, PageType, Status};
use tdx_call::host::{
    tdh_mng_key_freeid, tdh_mng_vpflushdone, tdh_phymem_cache_wb, tdh_phymem_page_rdmd,
    tdh_phymem_page_reclaim, tdh_phymem_page_wbinvd, tdh_vp_flush,
};
use tdx_call::{HostMemory, Leaf, Progress, SeamcallLp, Tdvpr};
use x86_arch::Hpa;

use crate::bringup::one_per_package;
use crate::convert::free_private;
use crate::seam::{INTERRUPTED_TRIES, retry};
use crate::td::{PrivatePage, TdMemory};
use crate::{Host, HostError, Leak, Lp, Td, Vcpu};

/// What teardown gave back.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Teardown {
    /// 4 KiB pages that the module gave up: control, Secure EPT and private pages, the TDR last.
    pub reclaimed: u64,
    /// Of those, Secure EPT pages.
    pub sept: u64,
    /// Of those, private pages of the guest.
    pub private: u64,
    /// Pages of the host's own: shared memory, its EPT, posted-interrupt descriptors, and what left the TD while it
    /// ran but could not be used again before its end.
    pub host_pages: u64,
    /// Calls of TDH.PHYMEM.CACHE.WB, resumptions included.
    pub cache_writebacks: u32,
    /// The failure that made teardown begin again, if one did.
    pub hindered: Option<HostError>,
}

/// How often teardown begins again after a failure.
const ATTEMPTS: u32 = 3;
/// How many pages may refuse to be reclaimed before an attempt is over.
const REFUSALS: u32 = 16;

impl Td {
    /// Ends the TD and gives back its key and every page. The vCPUs must all be handed in.
    ///
    /// A call that fails is made again in a further attempt. What stays with the module after the last one is
    /// reported as [`HostError::Leaked`], with the first call that failed.
    pub fn destroy<L: SeamcallLp, M: HostMemory>(
        self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        vcpus: Vec<Vcpu>,
    ) -> Result<Teardown, HostError> {
        let mut report = Teardown::default();
        let (made, created) = {
            let memory = self.lock();
            (memory.vcpus, memory.tdr_created)
        };
        let mut end = End {
            td: &self,
            vcpus: &vcpus,
            key_freed: !created,
        };
        let ended = if vcpus.len() != usize::from(made) {
            let index = vcpus.len() as u32;
            Err(HostError::VcpuInUse { index })
        } else if lps.is_empty() {
            Err(HostError::NoProcessors)
        } else if created {
            end.attempts(host, lps, &mut report)
        } else {
            host.pages().give_back(self.tdr.0);
            Ok(())
        };
        if end.key_freed || ended.is_ok() {
            host.hkids().give_back(self.hkid);
        }
        let hkid = (!end.key_freed).then_some(self.hkid);
        if let Err(cause) = ended {
            return Err(HostError::Leaked(Box::new(Leak {
                pages: self.pages_held(),
                first: self.tdr.0,
                hkid,
                cause,
                after: None,
            })));
        }
        let memory = self
            .memory
            .into_inner()
            .expect("no holder of a TD's memory panics");
        // With the TD's key its cache lines and translations are gone, and so nothing reaches what was kept back.
        for page in memory
            .descriptors
            .into_iter()
            .chain(memory.quarantine)
            .chain(memory.shared.into_pages())
        {
            host.memory().clear_page(page)?;
            host.pages().give_back(page);
            report.host_pages += 1;
        }
        Ok(report)
    }
}

/// The end of a TD that the module knows.
struct End<'a> {
    td: &'a Td,
    vcpus: &'a [Vcpu],
    key_freed: bool,
}

impl End<'_> {
    fn attempts<L: SeamcallLp, M: HostMemory>(
        &mut self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        report: &mut Teardown,
    ) -> Result<(), HostError> {
        for attempt in 1..ATTEMPTS {
            match self.attempt(host, lps, report, attempt > 1) {
                Ok(()) => return Ok(()),
                Err(why) => report.hindered.get_or_insert(why),
            };
        }
        let last = self.attempt(host, lps, report, true);
        last.map_err(|why| report.hindered.clone().unwrap_or(why))
    }

    /// One go at it. `again`: some of it is done already and refuses to be done twice, so only the reclaiming of the
    /// pages judges.
    fn attempt<L: SeamcallLp, M: HostMemory>(
        &mut self,
        host: &Host<M>,
        lps: &mut [Lp<L>],
        report: &mut Teardown,
        again: bool,
    ) -> Result<(), HostError> {
        let tdr = self.td.tdr;
        let mut refused = None;
        let mut judge = |step: Result<(), HostError>| match step {
            Err(why) if again => {
                refused.get_or_insert(why);
                Ok(())
            }
            step => step,
        };
        let stranded = self.td.lock().stranded.clone();
        let associated = self.vcpus.iter().filter_map(|vcpu| {
            let lp = vcpu.associated_lp()?;
            Some((vcpu.tdvpr(), lp))
        });
        for (tdvpr, on) in associated.chain(stranded) {
            if let Some(lp) = lps.get_mut(on) {
                judge(flush(tdvpr, &mut lp.seam))?;
            }
        }
        let blocked = match retry(|| tdh_mng_vpflushdone(&mut lps[0].seam, tdr)) {
            Err(why) if why.code() == Some(Status::FLUSHVP_NOT_DONE) => {
                // A vCPU sits where nobody remembers it.
                for lp in lps.iter_mut() {
                    for vcpu in self.vcpus {
                        // On all processors but one it is refused.
                        let _ = flush(vcpu.tdvpr(), &mut lp.seam);
                    }
                }
                retry(|| tdh_mng_vpflushdone(&mut lps[0].seam, tdr))
            }
            done => done,
        };
        judge(blocked.map(|_| ()))?;
        for lp in one_per_package(lps) {
            let written = write_back(&mut lp.seam).map(|calls| report.cache_writebacks += calls);
            judge(written)?;
        }
        let lp = &mut lps[0].seam;
        if !self.key_freed {
            let freed = retry(|| tdh_mng_key_freeid(lp, tdr));
            self.key_freed = freed.is_ok();
            judge(freed.map(|_| ()))?;
        }
        let mut memory = self.td.lock();
        let reclaimed = memory.reclaim_all(host, lp, tdr.0, report);
        reclaimed.map_err(|why| {
            // The module says that the TD still has its key.
            self.key_freed &= why.code() != Some(Status::LIFECYCLE_STATE_INCORRECT);
            refused.unwrap_or(why)
        })
    }
}

impl TdMemory {
    /// Takes back all pages, the TDR last. Goes past some that are refused and reports the first of them.
    fn reclaim_all<L: SeamcallLp, M: HostMemory>(
        &mut self,
        host: &Host<M>,
        lp: &mut L,
        tdr: Hpa,
        report: &mut Teardown,
    ) -> Result<(), HostError> {
        let mut refused = Refused::default();
        for gpa in self.private.keys().copied().collect::<Vec<_>>() {
            let page = self.private[&gpa];
            if refused.passes(reclaim(host, lp, page))? {
                self.private.remove(&gpa);
                let pages = page.bytes() / x86_arch::PAGE_SIZE;
                report.private += pages;
                report.reclaimed += pages;
            }
        }
        for at in self.sept.keys().copied().collect::<Vec<_>>() {
            let hpa = self.sept[&at];
            if refused.passes(reclaim(host, lp, PrivatePage { hpa, large: false }))? {
                self.sept.remove(&at);
                report.sept += 1;
                report.reclaimed += 1;
            }
        }
        for hpa in self.control.clone().into_iter().rev() {
            if refused.passes(reclaim(host, lp, PrivatePage { hpa, large: false }))? {
                self.control.retain(|&page| page != hpa);
                report.reclaimed += 1;
            }
        }
        if let Some(why) = refused.first {
            return Err(why);
        }
        take_back(lp, tdr)?;
        // Its lines lie under the module's own key, which goes on.
        let keyed = host.keyed(tdr, host.global_hkid());
        retry(|| tdh_phymem_page_wbinvd(lp, keyed))?;
        host.memory().clear_page(tdr)?;
        host.pages().give_back(tdr);
        self.tdr_created = false;
        report.reclaimed += 1;
        Ok(())
    }
}

/// The pages that refused to come back in one attempt.
#[derive(Default)]
struct Refused {
    count: u32,
    first: Option<HostError>,
}

impl Refused {
    /// Whether it came back; an error after too many that did not.
    fn passes(&mut self, reclaimed: Result<(), HostError>) -> Result<bool, HostError> {
        let Err(why) = reclaimed else {
            return Ok(true);
        };
        self.count += 1;
        let first = self.first.get_or_insert(why);
        match self.count < REFUSALS {
            true => Ok(false),
            false => Err(first.clone()),
        }
    }
}

/// TDH.PHYMEM.PAGE.RECLAIM; a page that the module has given up, or never took, is fine.
fn take_back<L: SeamcallLp>(lp: &mut L, page: Hpa) -> Result<(), HostError> {
    match retry(|| tdh_phymem_page_reclaim(lp, page)) {
        Err(why) if why.code() == Some(Status::PAGE_METADATA_INCORRECT) => {
            let metadata = retry(|| tdh_phymem_page_rdmd(lp, page))?;
            match metadata.page_type == PageType::Nda as u64 {
                true => Ok(()),
                false => Err(why),
            }
        }
        reclaimed => reclaimed.map(|_| ()),
    }
}

fn reclaim<L: SeamcallLp, M: HostMemory>(
    host: &Host<M>,
    lp: &mut L,
    page: PrivatePage,
) -> Result<(), HostError> {
    take_back(lp, page.hpa)?;
    free_private(host, page)
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
        match retry(|| tdh_phymem_cache_wb(lp, resume)) {
            Ok(Progress::Done(_)) => return Ok(calls),
            Ok(Progress::Interrupted(_)) if calls < INTERRUPTED_TRIES => resume = true,
            Ok(Progress::Interrupted(status)) => {
                return Err(HostError::Refused {
                    leaf: Leaf::Host(HostLeaf::PHYMEM_CACHE_WB),
                    status,
                    rcx: 0,
                    rdx: 0,
                });
            }
            // Nothing was interrupted after all: from the beginning.
            Err(why) if resume && why.code() == Some(Status::WBCACHE_RESUME_ERROR) => {
                resume = false
            }
            Err(why) => return Err(why),
        }
    }
}
