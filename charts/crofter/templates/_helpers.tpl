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

{{/* The same of the REST API where it has a Deployment of its own. No selector of the operator's matches its pods. */}}
{{- define "crofter.api.fullname" -}}
{{- printf "%s-api" (include "crofter.fullname" . | trunc 59 | trimSuffix "-") -}}
{{- end -}}

{{- define "crofter.api.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-api
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "crofter.api.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "crofter.api.selectorLabels" . }}
{{- end -}}

{{- define "crofter.api.serviceAccountName" -}}
{{- $name := dig "serviceAccount" "name" "" .Values.api -}}
{{- if dig "serviceAccount" "create" true .Values.api -}}
{{- $name = $name | default (include "crofter.api.fullname" .) -}}
{{- end -}}
{{- if eq $name (include "crofter.serviceAccountName" .) -}}
{{- fail (printf "api.serviceAccount.name: %q is the operator's, which has more rights: give another one" $name) -}}
{{- end -}}
{{- required "api.serviceAccount.name: give the name of the ServiceAccount to use, as api.serviceAccount.create is false" $name -}}
{{- end -}}

{{- define "crofter.api.username" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "crofter.api.serviceAccountName" . }}
{{- end -}}

{{/* The Deployments: the operator, and the REST API where it has one of its own. `of` begins the names of the templates for its
name, labels and account. */}}
{{- define "crofter.deployments" -}}
{{- $separate := ((.Values.api).deployment).enabled | default false -}}
- of: crofter
  args: [run{{ if $separate }}, --no-api{{ end }}]
  isOperator: true
  servesApi: {{ not $separate }}
  replicas: {{ .Values.replicas }}
  serviceAccount: {{ toJson .Values.serviceAccount }}
  resources: {{ toJson .Values.resources }}
{{- if $separate }}
- of: crofter.api
  args: [api]
  isOperator: false
  servesApi: true
  replicas: {{ .Values.api.replicas | default .Values.replicas }}
  serviceAccount: {{ dig "serviceAccount" (dict "create" true) .Values.api | toJson }}
  resources: {{ .Values.api.resources | default .Values.resources | toJson }}
{{- end }}
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
{{- $names := list (include "crofter.username" .) -}}
{{- if ((.Values.api).deployment).enabled }}{{ $names = append $names (include "crofter.api.username" .) }}{{ end -}}
['{{ $names | join "', '" }}']
{{- end -}}

{{/* When the node pulls the operator's image. */}}
{{- define "crofter.imagePullPolicy" -}}
{{- .Values.image.pullPolicy | default (ternary "IfNotPresent" "Always" (ne .Values.image.digest "")) -}}
{{- end -}}

{{/* Names of the plans in force: those given, else the ones built into the operator. */}}
{{- define "crofter.planNames" -}}
{{- keys .Values.plans | sortAlpha | join ", " | default "basic, enterprise, free, pro" -}}
{{- end -}}
