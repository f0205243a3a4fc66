//! The image's one layer: programs, and who root is.

use std::{collections::BTreeSet, io::Write};

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::{PLACE, archive::digest};

/// Names for the users of the chart: root, and nobody in particular.
const FILES: [(&str, &[u8]); 2] =
    [("etc/group", include_bytes!("../group")), ("etc/passwd", include_bytes!("../passwd"))];
/// Each before what is in it. /tmp is for whoever mounts something there.
const DIRECTORIES: [(&str, u32); 5] =
    [("etc/", 0o755), ("tmp/", 0o1777), ("usr/", 0o755), ("usr/local/", 0o755), ("usr/local/bin/", 0o755)];

pub(crate) struct Layer {
    pub(crate) compressed: Vec<u8>,
    /// Of what is compressed.
    pub(crate) diff_id: String,
}

/// `libraries` by their paths.
pub(crate) fn of(programs: &[(&str, Vec<u8>)], libraries: &[(String, Vec<u8>)]) -> Result<Layer> {
    let mut tar = Builder::new(Vec::new());
    for (name, mode) in DIRECTORIES {
        append(&mut tar, name, EntryType::Directory, mode, &[])?;
    }
    for (name, content) in FILES {
        append(&mut tar, name, EntryType::Regular, 0o644, content)?;
    }
    for (program, bytes) in programs {
        append(&mut tar, &format!("{PLACE}/{program}"), EntryType::Regular, 0o755, bytes)?;
    }
    let mut made: BTreeSet<String> = DIRECTORIES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (path, bytes) in libraries {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            if made.insert(path[..=end].to_owned()) {
                append(&mut tar, &path[..=end], EntryType::Directory, 0o755, &[])?;
            }
        }
        append(&mut tar, path, EntryType::Regular, 0o755, bytes)?;
    }
    let plain = tar.into_inner()?;
    // No name and no time in the header, or each build would be another image.
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(&plain)?;
    Ok(Layer { compressed: gzip.finish()?, diff_id: digest(&plain) })
}

pub(crate) fn append(
    tar: &mut Builder<Vec<u8>>,
    name: &str,
    kind: EntryType,
    mode: u32,
    content: &[u8],
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)?;
    Ok(())
}
