//! Where an instance is kept while it arrives: in a tray if there is one and it fits, else in a file of its own.

use crate::connection::{Arrival, Refusal};
use crate::file::SpoolFile;
use crate::intake::size_of;
use crate::lane::Lane;
use crate::trays::{LONGEST, TrayFile, Trays};

/// So much of an instance a tray can take; the rest is for what goes after it.
const ROOM: u64 = LONGEST - 8 * 1024;

/// What takes the bytes of one instance.
pub enum Keeping {
    Tray(TrayFile),
    File(SpoolFile),
}

impl Keeping {
    /// Return what was counted for it in the spool's room.
    pub fn taken(&mut self) -> &mut u64 {
        match self {
            Self::Tray(tray) => &mut tray.taken,
            Self::File(file) => &mut file.taken,
        }
    }

    /// Return the SHA-256 of the data set with its last pieces, of which a tray has none.
    pub fn sha256(&mut self, last: &[&[u8]]) -> [u8; 32] {
        match self {
            Self::Tray(tray) => tray.sha256(),
            Self::File(file) => file.sha256(last),
        }
    }

    pub fn data_set_offset(&self) -> u64 {
        match self {
            Self::Tray(tray) => tray.data_set_offset,
            Self::File(file) => file.data_set_offset,
        }
    }
}

impl Lane {
    /// Begin to keep an instance; none if the disk or the spool's room does not allow it.
    pub(crate) fn create(&mut self, header: Vec<u8>, long: bool) -> Option<Keeping> {
        let size = header.len() as u64;
        let trays = self.trays.as_mut().filter(|_| !long);
        let mut keeping = match trays.and_then(|trays| trays.create(&header)) {
            Some(tray) => Keeping::Tray(tray),
            None => Keeping::File(SpoolFile::create(&self.folder, header).ok()?),
        };
        if self.room.admit(size, keeping.taken()).is_err() {
            self.give_up(keeping);
            return None;
        }
        Some(keeping)
    }

    /// Keep pieces of an instance, unless it is refused.
    pub(crate) fn keep(&mut self, arrival: &mut Arrival, pieces: &[&[u8]]) {
        let Ok(keeping) = &mut arrival.file else { return };
        let mut kept = self.room.take(size_of(pieces), keeping.taken()).map_err(Refusal::Full);
        if kept.is_ok() {
            kept = self.moved_if_long(arrival, size_of(pieces)).and_then(|()| match &mut arrival.file {
                Ok(Keeping::Tray(tray)) => match &mut self.trays {
                    Some(trays) => trays.write(tray, pieces).map_err(|error| Refusal::of(&error)),
                    None => Ok(()),
                },
                Ok(Keeping::File(file)) => file.write(pieces).map_err(|error| Refusal::of(&error)),
                Err(_) => Ok(()),
            });
        }
        if let Err(refusal) = kept {
            self.refuse(arrival, refusal);
        }
    }

    /// Keep an instance no longer.
    pub(crate) fn refuse(&mut self, arrival: &mut Arrival, refusal: Refusal) {
        if let Ok(mut keeping) = std::mem::replace(&mut arrival.file, Err(refusal)) {
            self.room.give_back(*keeping.taken());
            self.give_up(keeping);
        }
    }

    /// Leave what was kept so far; a file without a name is gone when it is closed.
    pub(crate) fn give_up(&mut self, keeping: Keeping) {
        if let (Keeping::Tray(tray), Some(trays)) = (keeping, &mut self.trays) {
            trays.abandon(tray);
        }
    }

    /// Go on in a file of its own with what gets too long for its tray.
    fn moved_if_long(&mut self, arrival: &mut Arrival, more: u64) -> Result<(), Refusal> {
        let long = matches!(&arrival.file, Ok(Keeping::Tray(tray)) if !Trays::fits(tray.size + more));
        let Some(trays) = self.trays.as_mut().filter(|_| long) else { return Ok(()) };
        let file = SpoolFile::create(&self.folder, Vec::new()).map_err(|error| Refusal::of(&error))?;
        let Ok(Keeping::Tray(tray)) = std::mem::replace(&mut arrival.file, Ok(Keeping::File(file))) else {
            return Ok(());
        };
        let Ok(Keeping::File(file)) = &mut arrival.file else { return Ok(()) };
        (file.taken, file.data_set_offset) = (tray.taken, tray.data_set_offset);
        let (digest, copied) = trays.move_out(tray, |bytes| file.copy(bytes));
        file.resume(digest);
        copied.map_err(|error| Refusal::of(&error))
    }
}

impl Trays {
    /// Tell whether an instance of such a size fits.
    pub fn fits(size: u64) -> bool {
        size <= ROOM
    }

    /// Return how much more a tray can take of an instance, after so many bytes.
    pub fn left(size: u64) -> usize {
        ROOM.saturating_sub(size) as usize
    }
}
