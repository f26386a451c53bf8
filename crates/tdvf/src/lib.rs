//! TD virtual firmware images: what is in them, how a VMM loads them, and what that measures.
//!
//! For VMMs that build TDs and for tools that predict measurements. [`Image::parse`] reads the TDVF metadata
//! of an image (TDX Virtual Firmware Design Guide, "TDVF descriptor"; EDK II's GUIDed table),
//! [`Image::plan`] lists the TDH.MEM.PAGE.ADD and TDH.MR.EXTEND steps, [`Mrtd`] computes what they measure,
//! and [`HobList`] writes the hand-off blocks that tell the firmware its memory.
//! [`EventLog`] reads what the firmware says that it measured.
//! Bytes of an image are trusted in nothing: whatever they hold, the answer is a value or an [`ImageError`].
#![no_std]
#![forbid(unsafe_code)]

mod error;
mod event_log;
mod fuzz;
mod hob;
mod image;
mod mrtd;
mod plan;

pub use error::ImageError;
pub use event_log::{EventLog, EventType, LogError, LogEvent};
pub use fuzz::{fuzz_event_log, fuzz_image};
pub use hob::{HobList, HobListFull, ResourceType};
pub use image::{Image, MetadataSource, Section, SectionAttributes, SectionType};
pub use mrtd::Mrtd;
pub use plan::{Order, PageData, Plan, Step};
