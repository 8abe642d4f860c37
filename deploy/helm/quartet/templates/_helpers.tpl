{{- define "quartet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "quartet.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "quartet.labels" -}}
{{ include "quartet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "quartet.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Of every container. */}}
{{- define "quartet.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Of every pod; the image's user by its number. */}}
{{- define "quartet.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Models and adapters that are downloaded, as a list in JSON. */}}
{{- define "quartet.downloads" -}}
{{- $found := list -}}
{{- range concat .Values.models.serve .Values.models.adapters -}}
{{- if .hub -}}{{- $found = append $found . -}}{{- end -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* The models.toml; empty: the packaged models. */}}
{{- define "quartet.models" -}}
{{- if .Values.models.toml -}}
{{ .Values.models.toml }}
{{- else -}}
{{- range .Values.models.serve }}
[models.{{ .name | quote }}]
path = {{ printf "/models/%s" (.folder | default .name) | quote }}
{{- with .tasks }}
tasks = {{ . | toJson }}
{{- end }}
{{- with .weight }}
weight = {{ . | float64 }}
{{- end }}
{{ end }}
{{- range .Values.models.adapters }}
[adapters.{{ .name | quote }}]
base = {{ .base | quote }}
path = {{ printf "/models/%s" (.folder | default .name) | quote }}
{{- with .tasks }}
tasks = {{ . | toJson }}
{{- end }}
{{ end }}
{{- with .Values.models.defaults }}
[defaults]
{{- range $task, $model := . }}
{{ $task | quote }} = {{ $model | quote }}
{{- end }}
{{ end }}
{{- end -}}
{{- end -}}

{{/* True where a volume for models is needed. */}}
{{- define "quartet.hasVolume" -}}
{{- if or .Values.models.volume.existingClaim (ne (include "quartet.downloads" .) "[]") -}}true{{- end -}}
{{- end -}}

{{/* What the values' schema cannot say. */}}
{{- define "quartet.check" -}}
{{- $m := .Values.models -}}
{{- if and $m.toml (or $m.serve $m.adapters $m.defaults) -}}
{{- fail "models.toml is the whole file: leave out models.serve, models.adapters and models.defaults" -}}
{{- end -}}
{{- if and $m.adapters (not $m.serve) -}}
{{- fail "models.adapters need their base among models.serve" -}}
{{- end -}}
{{- range concat $m.serve $m.adapters -}}
{{- if and .folder (not $m.volume.existingClaim) -}}
{{- fail (printf "%s is a folder of the volume: set models.volume.existingClaim" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts needs a name at least" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs needs a gateway" -}}
{{- end -}}
{{- end -}}

{{/* A setting's value as text: lists with commas, whole numbers without an exponent. */}}
{{- define "quartet.setting" -}}
{{- if kindIs "slice" . -}}{{- join "," . -}}
{{- else if not (kindIs "float64" .) -}}{{- . -}}
{{- else if eq . (floor .) -}}{{- printf "%.0f" . -}}
{{- else -}}{{- . -}}{{- end -}}
{{- end -}}
