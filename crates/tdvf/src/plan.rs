//! The steps that load an image into a TD, in either of the orders VMMs use.

use x86_arch::Gpa;

use crate::{Image, Section};

/// In which order pages are added and measured; MRTD depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Order {
    /// Each page is extended right after it is added, as KVM_TDX_INIT_MEM_REGION does (QEMU 9 and later).
    #[default]
    PageByPage,
    /// All pages of a section are added, then all are extended (QEMU 8 and its patches).
    TwoPasses,
}

/// One step of loading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a chunk may end in zeros that are nowhere in the image, and there is no heap"
)]
pub enum Step<'a> {
    /// TDH.MEM.PAGE.ADD of a 4 KiB page.
    AddPage {
        section: u32,
        gpa: Gpa,
        data: PageData<'a>,
    },
    /// TDH.MEM.PAGE.AUG of a 4 KiB page, which the guest accepts; unmeasured.
    AugPage { section: u32, gpa: Gpa },
    /// TDH.MR.EXTEND of 256 bytes.
    Extend {
        section: u32,
        gpa: Gpa,
        chunk: [u8; 256],
    },
}

/// The contents of a page: some bytes, then zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageData<'a>(&'a [u8]);

impl<'a> PageData<'a> {
    /// The page at `offset` of `bytes`; what lies beyond their end is zero.
    pub fn of(bytes: &'a [u8], offset: u64) -> PageData<'a> {
        let start = bytes
            .len()
            .min(usize::try_from(offset).unwrap_or(usize::MAX));
        PageData(&bytes[start..bytes.len().min(start.saturating_add(4096))])
    }
    /// The bytes that the page begins with, at most 4096; the rest is zero.
    pub const fn bytes(&self) -> &'a [u8] {
        self.0
    }
    /// Writes the whole page.
    pub fn copy_to(&self, page: &mut [u8; 4096]) {
        let (data, rest) = page.split_at_mut(self.0.len());
        data.copy_from_slice(self.0);
        rest.fill(0);
    }
    /// The 256 bytes at index 0 to 15 of the page.
    pub fn chunk(&self, index: usize) -> [u8; 256] {
        let mut chunk = [0; 256];
        let start = self.0.len().min(index * 256);
        let data = &self.0[start..self.0.len().min(start + 256)];
        chunk[..data.len()].copy_from_slice(data);
        chunk
    }
}

impl<'a> Image<'a> {
    /// The steps that load the image as it is: sections without bytes of their own are zero.
    pub fn plan(&self, order: Order) -> Plan<'a, impl Fn(&Section) -> &'a [u8] + use<'a>> {
        let image = *self;
        self.plan_with(order, move |section| image.data(section))
    }

    /// The same with the contents of each section from `contents`, which is how a VMM supplies the TD HOB or a payload.
    /// Bytes beyond a section's memory are left out.
    pub fn plan_with<F: Fn(&Section) -> &'a [u8]>(&self, order: Order, contents: F) -> Plan<'a, F> {
        Plan {
            image: *self,
            contents,
            order,
            section: 0,
            page: 0,
            chunk: 0,
            measuring: false,
        }
    }
}

/// The iterator of steps.
#[derive(Clone, Debug)]
pub struct Plan<'a, F> {
    image: Image<'a>,
    contents: F,
    order: Order,
    section: usize,
    /// The page that is added or extended next.
    page: u64,
    /// The chunk of `page` that is extended next.
    chunk: usize,
    /// The next step is an extend.
    measuring: bool,
}

const CHUNKS: usize = 16;

impl<'a, F: Fn(&Section) -> &'a [u8]> Iterator for Plan<'a, F> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        loop {
            let section = self.image.get(self.section)?;
            if section.pages() == 0 {
                self.section += 1;
                continue;
            }
            let gpa = section.memory_address + self.page * 4096;
            let data = PageData::of((self.contents)(&section), self.page * 4096);
            let index = section.index;
            if self.measuring {
                let chunk = self.chunk;
                self.extended(&section);
                let gpa = Gpa::new(gpa + chunk as u64 * 256);
                return Some(Step::Extend {
                    section: index,
                    gpa,
                    chunk: data.chunk(chunk),
                });
            }
            self.added(&section);
            let gpa = Gpa::new(gpa);
            return Some(match section.attributes.augmented() {
                true => Step::AugPage {
                    section: index,
                    gpa,
                },
                false => Step::AddPage {
                    section: index,
                    gpa,
                    data,
                },
            });
        }
    }
}

impl<F> Plan<'_, F> {
    /// Moves on after a page was added.
    fn added(&mut self, section: &Section) {
        let last = self.page + 1 == section.pages();
        match (section.attributes.extended(), self.order, last) {
            (true, Order::PageByPage, _) => self.measuring = true,
            (true, Order::TwoPasses, true) => (self.measuring, self.page) = (true, 0),
            (true, Order::TwoPasses, false) | (false, _, false) => self.page += 1,
            (false, _, true) => (self.section, self.page) = (self.section + 1, 0),
        }
    }

    /// Moves on after a chunk was extended.
    fn extended(&mut self, section: &Section) {
        self.chunk += 1;
        if self.chunk < CHUNKS {
            return;
        }
        self.chunk = 0;
        self.page += 1;
        if self.page == section.pages() {
            (self.section, self.page, self.measuring) = (self.section + 1, 0, false);
        } else if self.order == Order::PageByPage {
            self.measuring = false;
        }
    }
}
