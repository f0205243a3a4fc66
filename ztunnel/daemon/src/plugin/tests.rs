//! On directories as a node has them.

use std::cell::RefCell;

use super::*;

const LIST: &str =
    r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge","mtu":1e2},{"type":"portmap"}]}"#;

struct NodeFiles(tempfile::TempDir, RefCell<Seen>);

impl NodeFiles {
    fn new(files: &[(&str, &str)]) -> Self {
        let node = Self(tempfile::tempdir().unwrap(), RefCell::default());
        for directory in ["bin", "net.d", "image"] {
            fs::create_dir(node.path(directory)).unwrap();
        }
        fs::write(node.path("image/ztunnel-cni"), "the plugin").unwrap();
        files.iter().for_each(|(name, text)| fs::write(node.path("net.d").join(name), text).unwrap());
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn install(&self) -> anyhow::Result<Vec<PathBuf>> {
        let section = Install {
            binary: Some(self.path("image/ztunnel-cni")),
            binary_directory: self.path("bin"),
            configuration_directory: self.path("net.d"),
        };
        let enrolled = self.path("net.d/ztunnel/enrolled-namespaces");
        ztunnel_cni::EnrolledNamespaces::default().write(&enrolled).unwrap();
        let plugin = Plugin { enrolled_namespaces: enrolled, ..Plugin::default() };
        install_once(&section, &plugin, &mut self.1.borrow_mut())
    }

    fn remove(&self) {
        remove(&self.path("net.d"), &self.path("bin")).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("net.d").join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("net.d")).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn has_ours(&self, name: &str) -> bool {
        self.read(name).contains(ztunnel_cni::PLUGIN)
    }
}

fn values(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_runtime_finds_it_in_its_first_network_and_nothing_is_left_of_it() {
    let node = NodeFiles::new(&[("10-pods.conflist", LIST), ("20-more.conflist", LIST), ("readme", "x")]);
    assert_eq!(node.install().unwrap().len(), 2, "binary and configuration");
    assert_eq!(fs::read(node.path("bin/ztunnel-cni")).unwrap(), b"the plugin");
    assert_eq!(fs::metadata(node.path("bin/ztunnel-cni")).unwrap().permissions().mode() & 0o777, 0o755);
    assert!(node.has_ours("10-pods.conflist") && !node.has_ours("20-more.conflist"));
    assert_eq!(node.install().unwrap(), Vec::<PathBuf>::new(), "it is there");
    node.remove();
    assert_eq!(node.names(), ["10-pods.conflist", "20-more.conflist", "readme"]);
    assert_eq!(values(&node.read("10-pods.conflist")), values(LIST));
    assert_eq!(fs::read_dir(node.path("bin")).unwrap().count(), 0);
    node.remove();
}

/// Other installers write their file anew at every start, or come with a file that goes before.
#[test]
fn what_others_undo_is_put_right() {
    let node = NodeFiles::new(&[("10-pods.conflist", LIST)]);
    node.install().unwrap();
    fs::write(node.path("net.d/10-pods.conflist"), LIST).unwrap();
    fs::remove_file(node.path("bin/ztunnel-cni")).unwrap();
    assert_eq!(node.install().unwrap().len(), 2);
    fs::write(node.path("net.d/05-new.conflist"), LIST).unwrap();
    node.install().unwrap();
    assert!(node.has_ours("05-new.conflist") && !node.has_ours("10-pods.conflist"), "the runtime reads one");
    fs::write(node.path("image/ztunnel-cni"), "a newer plugin").unwrap();
    node.install().unwrap();
    assert_eq!(fs::read(node.path("bin/ztunnel-cni")).unwrap(), b"a newer plugin");
}

#[test]
fn a_single_plugin_becomes_a_list_and_is_itself_again_in_the_end() {
    let single = r#"{"cniVersion":"0.3.1","name":"pods","type":"bridge"}"#;
    let node = NodeFiles::new(&[("10-pods.conf", single)]);
    node.install().unwrap();
    assert_eq!(node.names(), ["10-pods.conf.before-ztunnel", "10-pods.conflist", "ztunnel"]);
    assert_eq!(node.install().unwrap(), Vec::<PathBuf>::new());
    node.remove();
    assert_eq!(node.names(), ["10-pods.conf"]);
    assert_eq!(node.read("10-pods.conf"), single);
}

/// If it were repaired or skipped in silence, the node would be without a network, or pods without the mesh.
#[test]
fn what_is_not_understood_is_left_alone_and_told() {
    for bad in ["{", "[]", r#"{"plugins": 7}"#, ""] {
        let node = NodeFiles::new(&[("10-pods.conflist", bad)]);
        let problem = format!("{:#}", node.install().unwrap_err());
        assert!(problem.contains("10-pods.conflist is left alone"), "{problem}");
        assert_eq!(node.read("10-pods.conflist"), bad);
        node.remove();
        assert_eq!(node.read("10-pods.conflist"), bad);
    }
    let none = NodeFiles::new(&[]);
    assert!(format!("{:#}", none.install().unwrap_err()).contains("no network is configured yet"));
}

/// Multus, for one, writes its file at each start. It goes before the list, so the runtime would read it, without us.
#[test]
fn a_single_plugin_s_file_that_is_written_anew_is_made_a_list_anew() {
    let single = |name: &str| format!(r#"{{"cniVersion":"0.3.1","name":"{name}","type":"bridge"}}"#);
    let node = NodeFiles::new(&[("10-pods.conf", &single("before"))]);
    node.install().unwrap();
    fs::write(node.path("net.d/10-pods.conf"), single("anew")).unwrap();
    assert_eq!(node.install().unwrap(), [node.path("net.d/10-pods.conflist")]);
    assert!(node.read("10-pods.conflist").contains("anew") && !node.path("net.d/10-pods.conf").exists());
    fs::write(node.path("net.d/10-pods.conf"), single("again")).unwrap();
    node.remove();
    assert_eq!(node.names(), ["10-pods.conf"]);
    assert_eq!(node.read("10-pods.conf"), single("again"), "its owner's last word");
}

/// If the runtime reads a file that cannot have the entry, it does not help that another has it.
#[test]
fn the_entry_in_a_file_that_the_runtime_does_not_read_is_no_success() {
    let old = r#"{"cniVersion":"0.2.0","name":"pods","plugins":[{"type":"bridge"}]}"#;
    let node = NodeFiles::new(&[("10-old.conflist", old), ("20-pods.conflist", LIST)]);
    let problem = format!("{:#}", node.install().unwrap_err());
    assert!(problem.contains("10-old.conflist") && problem.contains("0.2.0"), "{problem}");
    assert_eq!(node.read("10-old.conflist"), old);
    let taken = NodeFiles::new(&[
        ("10-pods.conf", r#"{"cniVersion":"1.0.0","name":"x","type":"bridge"}"#),
        ("10-pods.conflist", LIST),
    ]);
    assert!(format!("{:#}", taken.install().unwrap_err()).contains("is there, too"), "somebody else's list");
}

/// The files of an image all show the same time, and a fix may leave the length as it was.
#[test]
fn a_plugin_of_the_same_length_and_time_is_replaced() {
    let node = NodeFiles::new(&[("10-pods.conflist", LIST)]);
    let image = node.path("image/ztunnel-cni");
    let write = |content: &str| {
        fs::write(&image, content).unwrap();
        File::options().write(true).open(&image).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    write("version A");
    node.install().unwrap();
    write("version B");
    node.install().unwrap();
    assert_eq!(fs::read(node.path("bin/ztunnel-cni")).unwrap(), b"version B");
}

/// The runtime would run it, and no pod but the exempt would start.
#[test]
fn nothing_is_installed_before_the_list_of_namespaces_is_there() {
    let node = NodeFiles::new(&[("10-pods.conflist", LIST)]);
    let section = Install {
        binary: Some(node.path("image/ztunnel-cni")),
        binary_directory: node.path("bin"),
        configuration_directory: node.path("net.d"),
    };
    let plugin = Plugin { enrolled_namespaces: node.path("nowhere"), ..Plugin::default() };
    let problem = install_once(&section, &plugin, &mut Seen::default()).unwrap_err();
    assert!(problem.to_string().contains("not written yet"), "{problem}");
    assert!(!node.has_ours("10-pods.conflist"));
}

/// A daemon that was killed as it wrote, and a list that no entry names any more.
#[test]
fn what_nothing_names_goes_too() {
    let node = NodeFiles::new(&[("10-pods.conflist", LIST), (".10-pods.conflist.7.ztunnel", "half")]);
    node.install().unwrap();
    fs::write(node.path("net.d/10-pods.conflist"), LIST).unwrap();
    fs::write(node.path("net.d/ztunnel/enrolled-namespaces.7"), "half").unwrap();
    node.remove();
    assert_eq!(node.names(), ["10-pods.conflist"]);
}

/// Without the binary, CRI-O could not take down any pod that was started through it.
#[test]
fn where_cri_o_runs_the_binary_stays() {
    let node = NodeFiles::new(&[("10-pods.conflist", LIST)]);
    node.install().unwrap();
    fs::create_dir_all(node.path("proc/7")).unwrap();
    fs::write(node.path("proc/7/comm"), "crio\n").unwrap();
    configuration::take_away(&node.path("net.d"), &node.path("bin"), &node.path("proc")).unwrap();
    assert!(node.path("bin/ztunnel-cni").exists() && !node.has_ours("10-pods.conflist"));
}
