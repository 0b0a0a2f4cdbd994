{{/* Full name of the release's objects: the release's name, with the chart's where that isn't part of it. */}}
{{- define "crofter.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The labels that distinguish this release's pods from others; they never change. */}}
{{- define "crofter.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "crofter.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "crofter.selectorLabels" . }}
{{- end -}}

{{- define "crofter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "crofter.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: give the name of the ServiceAccount to use, as serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The user that the operator is for the API server. */}}
{{- define "crofter.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "crofter.serviceAccountName" . }}
{{- end -}}

{{- define "crofter.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Names of the plans in force: those given, else the ones built into the operator. */}}
{{- define "crofter.planNames" -}}
{{- keys .Values.plans | sortAlpha | join ", " | default "basic, enterprise, free, pro" -}}
{{- end -}}
