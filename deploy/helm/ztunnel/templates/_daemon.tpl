{{/* Who a daemon is: its pod and its node. */}}
{{- define "ztunnel.daemonIdentity" -}}
{{- $standalone := eq .Values.mode "standalone" }}
- name: {{ ternary "ZTUNNEL_NODE_NAME" "NODE_NAME" $standalone }}
  valueFrom: { fieldRef: { fieldPath: spec.nodeName } }
- name: {{ ternary "ZTUNNEL_POD_NAME" "POD_NAME" $standalone }}
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
- name: {{ ternary "ZTUNNEL_POD_NAMESPACE" "POD_NAMESPACE" $standalone }}
  valueFrom: { fieldRef: { fieldPath: metadata.namespace } }
- name: {{ ternary "ZTUNNEL_POD_IP" "INSTANCE_IP" $standalone }}
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
{{- if $standalone }}
# For commands in this container.
- { name: ZTUNNEL_ADMIN, value: "unix:/var/run/ztunnel/admin.sock" }
{{- end }}
{{- end -}}

{{/* As Istio's manifest has it: docs/ISTIO.md. */}}
{{- define "ztunnel.istioEnvironment" -}}
- { name: XDS_ADDRESS, value: {{ .Values.istio.xdsAddress | quote }} }
- { name: CA_ADDRESS, value: {{ .Values.istio.caAddress | quote }} }
- { name: XDS_ROOT_CA, value: /var/run/secrets/istio/root-cert.pem }
- { name: CA_ROOT_CA, value: /var/run/secrets/istio/root-cert.pem }
- { name: AUTH_TOKEN, value: /var/run/secrets/tokens/token }
- { name: INPOD_UDS, value: /var/run/ztunnel/ztunnel.sock }
- { name: CLUSTER_ID, value: {{ .Values.clusterId | quote }} }
- { name: CLUSTER_DOMAIN, value: {{ .Values.clusterDomain | quote }} }
- { name: TRUST_DOMAIN, value: {{ .Values.trustDomain | quote }} }
- { name: RUST_LOG, value: {{ .Values.logLevel | quote }} }
- { name: LOG_FORMAT, value: {{ .Values.logFormat | quote }} }
- { name: TERMINATION_GRACE_PERIOD_SECONDS, value: {{ .Values.daemon.terminationGracePeriodSeconds | quote }} }
{{- with .Values.istio.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Not privileged: docs/SECURITY.md has the reason for each capability. */}}
{{- define "ztunnel.daemonSecurity" -}}
privileged: false
# Kubernetes takes nothing else beside SYS_ADMIN.
allowPrivilegeEscalation: true
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
capabilities:
  drop: [ALL]
  {{- if eq .Values.mode "standalone" }}
  add: [NET_ADMIN, SYS_ADMIN, SYS_PTRACE]
  {{- else }}
  add: [NET_ADMIN, SYS_ADMIN]
  {{- end }}
seccompProfile:
  {{- include "ztunnel.seccomp" . | nindent 2 }}
{{- if eq .Values.mode "standalone" }}
# The runtimes' own profile forbids to enter other namespaces and to write sysctls there.
appArmorProfile: { type: Unconfined }
{{- end }}
{{- end -}}

{{/* Ours, once an init container has put it where the kubelet looks, or what is asked for. */}}
{{- define "ztunnel.seccomp" -}}
{{- if .Values.daemon.installSeccompProfile -}}
type: Localhost
localhostProfile: ztunnel/{{ .Chart.AppVersion }}.json
{{- else -}}
{{ toYaml .Values.daemon.seccompProfile }}
{{- end -}}
{{- end -}}

{{/* Writes a file of the node that root owns, and nothing else. */}}
{{- define "ztunnel.rootlikeSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{/* What needs no node of its own. */}}
{{- define "ztunnel.plainSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{/* What of the node both the daemon and its removal see. */}}
{{- define "ztunnel.nodeMounts" -}}
# Sockets for the node's root and for the CNI.
- { name: run, mountPath: /var/run/ztunnel }
{{- if eq .Values.mode "standalone" }}
# Where programs and maps outlive the daemon.
- { name: bpf, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer }
# Programs are attached at its root, and pods are found by it.
- { name: cgroup, mountPath: /host/sys/fs/cgroup, readOnly: true, mountPropagation: HostToContainer }
# At the same paths as on the node: they stand in the node's configuration. Without the plugin too: one that is there goes.
- { name: cni-conf, mountPath: {{ .Values.cni.confDir | quote }} }
- { name: cni-bin, mountPath: {{ .Values.cni.binDir | quote }} }
{{- end }}
{{- end -}}

{{- define "ztunnel.nodeVolumes" -}}
- name: run
  hostPath: { path: /var/run/ztunnel, type: DirectoryOrCreate }
{{- if eq .Values.mode "standalone" }}
- name: bpf
  hostPath: { path: /sys/fs/bpf, type: Directory }
- name: cgroup
  hostPath: { path: /sys/fs/cgroup, type: Directory }
- name: cni-conf
  hostPath: { path: {{ .Values.cni.confDir | quote }}, type: DirectoryOrCreate }
- name: cni-bin
  hostPath: { path: {{ .Values.cni.binDir | quote }}, type: DirectoryOrCreate }
{{- end }}
{{- end -}}

{{- define "ztunnel.daemonMounts" -}}
{{ include "ztunnel.nodeMounts" . }}
- { name: token, mountPath: /var/run/secrets/tokens, readOnly: true }
{{- if eq .Values.mode "standalone" }}
- { name: config, mountPath: /etc/ztunnel, readOnly: true }
- { name: roots, mountPath: /var/run/secrets/ztunnel, readOnly: true }
{{- else }}
- { name: roots, mountPath: /var/run/secrets/istio, readOnly: true }
{{- end }}
{{- end -}}

{{- define "ztunnel.daemonVolumes" -}}
{{ include "ztunnel.nodeVolumes" . }}
- name: token
  projected:
    sources:
      - serviceAccountToken: { path: token, audience: istio-ca, expirationSeconds: 43200 }
{{- if eq .Values.mode "standalone" }}
- name: config
  configMap: { name: ztunnel }
{{- end }}
{{- if .Values.daemon.installSeccompProfile }}
- name: seccomp
  hostPath: { path: {{ printf "%s/seccomp" .Values.daemon.kubeletDirectory | quote }}, type: DirectoryOrCreate }
{{- end }}
# The controller writes it, as istiod does.
- name: roots
  configMap: { name: istio-ca-root-cert }
{{- end -}}
