//! The archive: an OCI image layout (image-spec 1.1), and Docker's index beside it for engines that know only that.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use crate::{
    PLACE,
    layer::{Layer, append},
};

const EPOCH: &str = "1970-01-01T00:00:00Z";

pub struct Archive {
    pub bytes: Vec<u8>,
    /// Of the manifest, as a registry has it.
    pub digest: String,
}

pub(crate) fn of(layer: &Layer, architecture: &str, name: &str, entrypoint: &[&str]) -> Result<Archive> {
    let config = json!({
        "architecture": architecture, "os": "linux", "created": EPOCH,
        "config": {
            "Entrypoint": entrypoint,
            "Env": [format!("PATH=/{PLACE}")],
            "Labels": { "org.opencontainers.image.title": "ztunnel", "org.opencontainers.image.licenses": "Apache-2.0" },
        },
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
    });
    let config = serde_json::to_vec(&config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.compressed)],
    });
    let manifest = serde_json::to_vec(&manifest)?;
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    listed["platform"] = json!({ "architecture": architecture, "os": "linux" });
    let tag = name.rsplit_once(':').map_or(name, |(_, tag)| tag);
    listed["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [listed],
    });
    let docker =
        json!([{ "Config": blob(&config), "RepoTags": [name], "Layers": [blob(&layer.compressed)] }]);
    let mut files = vec![
        ("index.json".to_owned(), serde_json::to_vec(&index)?),
        ("manifest.json".to_owned(), serde_json::to_vec(&docker)?),
        ("oci-layout".to_owned(), serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?),
    ];
    let digest = digest(&manifest);
    files.extend([config, manifest, layer.compressed.clone()].map(|bytes| (blob(&bytes), bytes)));
    files.sort();
    let mut tar = Builder::new(Vec::new());
    for directory in ["blobs/", "blobs/sha256/"] {
        append(&mut tar, directory, EntryType::Directory, 0o755, &[])?;
    }
    for (name, bytes) in files {
        append(&mut tar, &name, EntryType::Regular, 0o644, &bytes)?;
    }
    Ok(Archive { bytes: tar.into_inner()?, digest })
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/{}", digest(bytes).replace(':', "/"))
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read};

    use super::*;
    use crate::{Processor, elf, layer};

    fn image() -> Archive {
        let programs = [("ztunnel", vec![1; 100_000]), ("ztunnel-cni", vec![2; 10])];
        let layer = layer::of(&programs, &[("/lib64/x/l.so".to_owned(), vec![3; 10])]).unwrap();
        of(&layer, "amd64", "example.org/mesh/ztunnel:1.2.3", &["/ztunnel"]).unwrap()
    }

    fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), bytes)
        });
        entries.collect()
    }

    /// Two builds of one commit must be one image: that is how one knows what runs.
    #[test]
    fn the_same_programs_make_the_same_bytes() {
        assert!(image().bytes == image().bytes);
    }

    /// A runtime follows digests from the index to the layer and refuses what differs.
    #[test]
    fn every_digest_leads_to_its_blob() {
        let files = files(&image().bytes);
        let follow = |listed: &Value| {
            let bytes = &files[&format!("blobs/{}", listed["digest"].as_str().unwrap().replace(':', "/"))];
            assert_eq!(listed["digest"], digest(bytes));
            assert_eq!(listed["size"], bytes.len());
            bytes.clone()
        };
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = read(&files["index.json"]);
        assert_eq!(index["manifests"][0]["digest"], image().digest);
        assert_eq!(
            index["manifests"][0]["annotations"]["io.containerd.image.name"],
            "example.org/mesh/ztunnel:1.2.3"
        );
        let manifest = read(&follow(&index["manifests"][0]));
        let config = read(&follow(&manifest["config"]));
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&follow(&manifest["layers"][0])[..]).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&layer));
        assert_eq!(self::files(&layer)["usr/local/bin/ztunnel"].len(), 100_000);
        assert_eq!(self::files(&layer)["lib64/x/l.so"].len(), 10);
        let docker = read(&files["manifest.json"]);
        assert!(files.contains_key(docker[0]["Layers"][0].as_str().unwrap()));
        assert!(files.contains_key(docker[0]["Config"].as_str().unwrap()));
    }

    /// In an image without libraries such a program says only "no such file or directory".
    #[test]
    fn programs_that_need_libraries_are_refused() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let error = elf::check(&this, Processor::of_this_machine()).unwrap_err().to_string();
        assert!(error.contains("linked dynamically"), "{error}");
        assert!(elf::check(b"#!/bin/sh\n", Processor::X86_64).is_err());
    }
}
