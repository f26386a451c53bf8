//! One processor's cached second-level translations for scripted guests.
//!
//! An entry lives until the module drops it, however the S-EPT has changed meanwhile: so a missing flush shows.

use std::collections::HashMap;

use tdx_module::CachedTranslation;
use x86_arch::{Access, EptFault, Gpa, SecondLevel, SecondLevelMapping};

#[derive(Default)]
pub(crate) struct Tlb {
    /// By VPID and 4 KiB guest page.
    entries: HashMap<(u16, Gpa), SecondLevelMapping>,
}

impl Tlb {
    pub(crate) fn translate(
        &mut self,
        vpid: u16,
        gpa: Gpa,
        access: Access,
        second_level: &dyn SecondLevel,
    ) -> Result<SecondLevelMapping, EptFault> {
        let key = (vpid, gpa.page());
        if let Some(hit) = self
            .entries
            .get(&key)
            .filter(|hit| hit.permissions.allow(access))
        {
            return Ok(*hit);
        }
        // A permission fault drops the entry, as on hardware (SDM 29.4.3.1).
        self.entries.remove(&key);
        let mapping = second_level.translate(gpa, access)?;
        self.entries.insert(key, mapping);
        Ok(mapping)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = CachedTranslation> + '_ {
        let entries = self.entries.iter();
        entries.map(|(&(vpid, gpa), mapping)| CachedTranslation {
            vpid,
            gpa: Some(gpa),
            page: mapping.page,
        })
    }

    pub(crate) fn invalidate(&mut self, vpids: &[u16]) {
        self.entries.retain(|(vpid, _), _| !vpids.contains(vpid));
    }
}
