//! Loading a TDVF image into a TD that is being built: sections in the metadata's order, page by page, as QEMU does.

use std::ops::Range;

use tdvf::{HobList, HobListFull, Image, ResourceType, Section, SectionType};
use tdx_call::{HostMemory, SeamcallLp};
use x86_arch::Gpa;

use crate::{Host, HostError, MemRegion, Td};

/// Pages that are added between two calls of the progress function.
const STEP: u64 = 256;

impl Td {
    /// Adds all sections of an image. `contents` gives the bytes of the sections that the VMM fills (the TD HOB, a
    /// payload), `None` for the image's own; `progress` hears pages done and pages in all.
    pub fn load_image<'a, L: SeamcallLp, M: HostMemory>(
        &self,
        host: &Host<M>,
        lp: &mut L,
        image: &Image<'a>,
        contents: impl Fn(&Section) -> Option<&'a [u8]>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), HostError> {
        let total = image.sections().map(|section| section.pages()).sum();
        let mut done = 0;
        for section in image.sections() {
            let range = section.memory_address..section.end();
            if range.is_empty() {
                continue;
            }
            if !self.is_ram(Gpa::new(range.start), range.end - range.start) {
                self.add_ram(range.clone())?;
            }
            if section.attributes.augmented() {
                // The guest accepts these; they come on its first touch.
                done += section.pages();
                continue;
            }
            let bytes = contents(&section).unwrap_or_else(|| image.data(&section));
            let size = range.end - range.start;
            let bytes = &bytes[..bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
            let measured = section.attributes.extended();
            let mut region = MemRegion::new(Gpa::new(range.start), size, bytes, measured)?;
            while region.progress().done < size {
                let before = region.progress().done;
                self.init_mem_region(host, lp, &mut region, STEP)?;
                done += (region.progress().done - before) / x86_arch::PAGE_SIZE;
                progress(done, total);
            }
        }
        Ok(())
    }
}

/// The TD HOB for a guest whose RAM is `ram`: what the image occupies there is accepted, the rest is not.
pub fn td_hob(image: &Image<'_>, ram: &[Range<u64>]) -> Result<Vec<u8>, HobListFull> {
    let Some(hob) = image.section_of(SectionType::TD_HOB) else {
        return Ok(Vec::new());
    };
    let mut loaded: Vec<Range<u64>> = image
        .sections()
        .filter(|section| !section.attributes.augmented())
        .map(|section| section.memory_address..section.end())
        .collect();
    loaded.sort_by_key(|range| range.start);
    let mut bytes = vec![0; hob.memory_data_size as usize];
    let mut list = HobList::new(&mut bytes, Gpa::new(hob.memory_address))?;
    for ram in ram {
        let mut at = ram.start;
        let mut add = |kind, start: u64, end: u64| match start < end {
            true => list.resource(kind, Gpa::new(start), end - start),
            false => Ok(()),
        };
        for part in &loaded {
            let (start, end) = (part.start.clamp(at, ram.end), part.end.clamp(at, ram.end));
            add(ResourceType::MEMORY_UNACCEPTED, at, start)?;
            add(ResourceType::SYSTEM_MEMORY, start, end)?;
            at = end;
        }
        add(ResourceType::MEMORY_UNACCEPTED, at, ram.end)?;
    }
    list.finish()?;
    Ok(bytes)
}
