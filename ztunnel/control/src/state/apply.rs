//! Changes a snapshot into what a mesh says, touching only what differs.

use model::Snapshot;

use super::build::Mesh;

/// How many objects were added, changed or removed.
pub(super) fn apply(snapshot: &mut Snapshot, mesh: Mesh) -> usize {
    let before = snapshot.clone();
    let gone = remove(&before, snapshot, &mesh);
    let set = usize::from(*before.settings() != mesh.settings);
    if set > 0 {
        snapshot.set_settings(mesh.settings.clone());
    }
    gone + set + insert(&before, snapshot, mesh)
}

fn remove(before: &Snapshot, snapshot: &mut Snapshot, mesh: &Mesh) -> usize {
    let mut removed = 0;
    for workload in before.workloads().filter(|old| !mesh.workloads.contains_key(&old.uid)) {
        snapshot.remove_workload(&workload.uid);
        removed += 1;
    }
    for key in before.services().map(|old| old.key()).filter(|key| !mesh.services.contains_key(key)) {
        snapshot.remove_service(&key);
        removed += 1;
    }
    for key in before.policies().map(|old| old.key()).filter(|key| !mesh.policies.contains_key(key)) {
        snapshot.remove_policy(&key);
        removed += 1;
    }
    removed
}

fn insert(before: &Snapshot, snapshot: &mut Snapshot, mesh: Mesh) -> usize {
    let mut inserted = 0;
    for (uid, workload) in mesh.workloads {
        if before.workload(&uid).is_none_or(|old| **old != workload) {
            snapshot.insert_workload(workload);
            inserted += 1;
        }
    }
    for (key, service) in mesh.services {
        if before.service(&key).is_none_or(|old| **old != service) {
            snapshot.insert_service(service);
            inserted += 1;
        }
    }
    for (key, policy) in mesh.policies {
        if before.policy(&key).is_none_or(|old| **old != policy) {
            snapshot.insert_policy(policy);
            inserted += 1;
        }
    }
    inserted
}
