{{- define "ztunnel.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "ztunnel.labels" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "ztunnel.daemonSelector" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/component: daemon
{{- end -}}

{{- define "ztunnel.controllerSelector" -}}
app.kubernetes.io/name: ztunnel
app.kubernetes.io/component: controller
{{- end -}}

