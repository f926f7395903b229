{{/* The objects of a role that differ only by the role. */}}

{{- define "trunkline.scaled" -}}
{{- $kind := dig "autoscaling" "kind" "none" (index .root.Values .role) -}}
{{- if ne $kind "none" -}}{{ $kind }}{{- end -}}
{{- end -}}

{{- define "trunkline.replicas" -}}
{{- if not (include "trunkline.scaled" .) }}
replicas: {{ (index .root.Values .role).replicas }}
{{- end }}
{{- end -}}

{{/*
A StatefulSet: pods keep their names, which operators drain by, and their volumes. `strategy` OnDelete is for roles whose
pods carry calls for hours: a new version comes to a pod when an operator has drained it.
*/}}
{{- define "trunkline.statefulSet" -}}
{{- $root := .root -}}
{{- $own := index $root.Values .role -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "trunkline.fullname" $root }}-{{ .role }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trunkline.roleLabels" . | nindent 4 }}
spec:
  {{- include "trunkline.replicas" . | indent 2 }}
  serviceName: {{ include "trunkline.fullname" $root }}-nodes
  podManagementPolicy: Parallel
  minReadySeconds: 5
  revisionHistoryLimit: 5
  updateStrategy:
    type: {{ .strategy }}
  selector:
    matchLabels:
      {{- include "trunkline.roleSelector" . | nindent 6 }}
  template:
    {{- include "trunkline.podTemplate" . | nindent 4 }}
  {{- $persistence := dig "persistence" dict $own }}
  {{- if get $persistence "enabled" }}
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: Retain
    whenScaled: Retain
  volumeClaimTemplates:
    - apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: data
        labels:
          {{- include "trunkline.roleSelector" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $persistence.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $persistence.size }}
  {{- end }}
{{- end -}}

{{/* A Deployment: a new pod is a member before an old one hands its shards or sessions over. */}}
{{- define "trunkline.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "trunkline.fullname" $root }}-{{ .role }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trunkline.roleLabels" . | nindent 4 }}
spec:
  {{- include "trunkline.replicas" . | indent 2 }}
  minReadySeconds: 5
  revisionHistoryLimit: 5
  progressDeadlineSeconds: 900
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "trunkline.roleSelector" . | nindent 6 }}
  template:
    {{- include "trunkline.podTemplate" . | nindent 4 }}
{{- end -}}

{{/* The configuration, and what keeps evictions and scaling within bounds. */}}
{{- define "trunkline.companions" -}}
{{- $root := .root -}}
{{- $own := index $root.Values .role -}}
{{- $name := printf "%s-%s" (include "trunkline.fullname" $root) .role -}}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trunkline.roleLabels" . | nindent 4 }}
data:
  node.yaml: |
    {{- include "trunkline.nodeConfig" . | nindent 4 }}
{{- if $own.pdb.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trunkline.roleLabels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $own.pdb.maxUnavailable }}
  # A pod that is not ready because it drains still has calls: it counts.
  unhealthyPodEvictionPolicy: {{ ternary "IfHealthyBudget" "AlwaysAllow" (has .role (list "edge" "media")) }}
  selector:
    matchLabels:
      {{- include "trunkline.roleSelector" . | nindent 6 }}
{{- end }}
{{- if include "trunkline.scaled" . }}
---
{{ include "trunkline.autoscaler" . }}
{{- end }}
{{- end -}}

{{/* Calls over capacity, in pods: what all pods carry, divided by what one is meant to. */}}
{{- define "trunkline.loadQuery" -}}
{{- $own := index .root.Values .role -}}
{{- $namespace := .root.Release.Namespace -}}
{{- $pods := printf "%s-%s-.*" (include "trunkline.fullname" .root) .role -}}
{{- if eq .role "media" -}}
sum(trunkline_media_sessions{namespace="{{ $namespace }}",pod=~"{{ $pods }}"}) / {{ $own.maxSessions | int }}
{{- else if eq .role "call" -}}
sum(trunkline_call_active{namespace="{{ $namespace }}",pod=~"{{ $pods }}",phase!="ended"}) / {{ $own.maxCalls | int }}
{{- else -}}
{{- $calls := printf "%s-call-.*" (include "trunkline.fullname" .root) -}}
sum(trunkline_call_active{namespace="{{ $namespace }}",pod=~"{{ $calls }}",phase!="ended"}) / {{ $own.capacity | int }}
{{- end -}}
{{- end -}}

{{- define "trunkline.scalingBehaviour" -}}
{{- $scaling := (index .root.Values .role).autoscaling -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - { type: Percent, value: 100, periodSeconds: 60 }
    - { type: Pods, value: 2, periodSeconds: 60 }
scaleDown:
  {{- if $scaling.scaleIn }}
  # One pod in the time that its calls have to end in.
  stabilizationWindowSeconds: 3600
  policies:
    - { type: Pods, value: 1, periodSeconds: 1800 }
  {{- else }}
  # Not by an average: an operator drains the pod and lowers maxReplicas, which alone takes pods now.
  selectPolicy: Disabled
  {{- end }}
{{- end -}}

{{- define "trunkline.autoscaler" -}}
{{- $root := .root -}}
{{- $scaling := (index $root.Values .role).autoscaling -}}
{{- $name := printf "%s-%s" (include "trunkline.fullname" $root) .role -}}
{{- $kind := ternary "Deployment" "StatefulSet" (eq .role "call") -}}
{{- if eq $scaling.kind "hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trunkline.roleLabels" . | nindent 4 }}
  annotations:
    # What the adapter for external metrics has to answer with, summed over the release.
    trunkline.dev/query: {{ include "trunkline.loadQuery" . | quote }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ $kind }}
    name: {{ $name }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    - type: External
      external:
        metric:
          name: trunkline_{{ .role }}_load
          selector:
            matchLabels:
              namespace: {{ $root.Release.Namespace }}
              release: {{ $root.Release.Name }}
        target:
          type: AverageValue
          averageValue: {{ printf "%dm" (mulf $scaling.utilisation 1000 | int) }}
  behavior:
    {{- include "trunkline.scalingBehaviour" . | nindent 4 }}
{{- else -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "trunkline.roleLabels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ $kind }}
    name: {{ $name }}
  minReplicaCount: {{ $scaling.minReplicas }}
  maxReplicaCount: {{ $scaling.maxReplicas }}
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $scaling.prometheus }}
        query: {{ include "trunkline.loadQuery" . | quote }}
        threshold: {{ $scaling.utilisation | quote }}
        # No answer is no load of zero.
        ignoreNullValues: "false"
  advanced:
    horizontalPodAutoscalerConfig:
      behavior:
        {{- include "trunkline.scalingBehaviour" . | nindent 8 }}
{{- end -}}
{{- end -}}
