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

{{/* The name of the Postgres that the chart installs, and of all that is its own. 43: a StatefulSet's is at most 52. */}}
{{- define "crofter.postgres" -}}
{{- printf "%s-postgres" (include "crofter.fullname" . | trunc 43 | trimSuffix "-") -}}
{{- end -}}

{{/* The labels of its pod, which is not the operator's: neither Service nor policies of the operator may select it. */}}
{{- define "crofter.postgresSelectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-postgres
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "crofter.postgresLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "crofter.postgresSelectorLabels" . }}
{{- end -}}

{{/* Name and key of the Secret with the URL of the database; empty where there is no database. */}}
{{- define "crofter.databaseSecret" -}}
{{- with .Values.database -}}
{{- /* Parentheses: `helm upgrade --reuse-values` gives a chart no value that is newer than the release. */ -}}
{{- if and (.bundled).enabled .existingSecret -}}
{{- fail (printf "database.bundled.enabled and database.existingSecret (%q) are two databases: set one of them" .existingSecret) -}}
{{- end -}}
{{- if (.bundled).enabled -}}
name: {{ include "crofter.postgres" $ }}
key: url
{{- else if .existingSecret -}}
name: {{ .existingSecret }}
key: {{ .existingSecretKey }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The users that Crofter's own processes are for the API server, as a list of CEL: what only Crofter does is theirs. */}}
{{- define "crofter.usernames" -}}
['{{ list (include "crofter.username" .) | join "', '" }}']
{{- end -}}

{{/* When the node pulls the operator's image. */}}
{{- define "crofter.imagePullPolicy" -}}
{{- .Values.image.pullPolicy | default (ternary "IfNotPresent" "Always" (ne .Values.image.digest "")) -}}
{{- end -}}

{{/* Names of the plans in force: those given, else the ones built into the operator. */}}
{{- define "crofter.planNames" -}}
{{- keys .Values.plans | sortAlpha | join ", " | default "basic, enterprise, free, pro" -}}
{{- end -}}
