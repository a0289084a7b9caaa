{{- define "counterpoint.name" -}}
{{- if contains "counterpoint" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-counterpoint{{ end }}
{{- end }}

{{- define "counterpoint.labels" -}}
app.kubernetes.io/name: counterpoint
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Labels of one role's pods: a list of the root and the role. */}}
{{- define "counterpoint.selector" -}}
app.kubernetes.io/name: counterpoint
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The environment of one role: a list of the root, the role and the role's own settings. */}}
{{- define "counterpoint.environment" -}}
{{- $root := index . 0 }}
- name: COUNTERPOINT_REDIS
{{- if $root.Values.store.existingSecret }}
  valueFrom: {secretKeyRef: {name: {{ $root.Values.store.existingSecret }}, key: {{ index . 1 }}}}
{{- else }}
  value: {{ required "name the store: store.url, or store.existingSecret with one address per role" $root.Values.store.url | quote }}
{{- end }}
{{- range $name, $value := merge (dict) (index . 2) $root.Values.settings }}
- name: COUNTERPOINT_{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* What every pod has: a list of the root and the role's values. */}}
{{- define "counterpoint.pod" -}}
{{- $root := index . 0 }}{{- $own := index . 1 }}
serviceAccountName: {{ $root.Values.serviceAccount.name }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
terminationGracePeriodSeconds: 30
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: keys
    secret: {secretName: {{ $root.Values.keys.existingSecret }}, items: [{key: keys.yaml, path: counterpoint_keys}], defaultMode: 288}
  - name: tmp
    emptyDir: {}
{{- with $root.Values.experiments }}
  - name: experiments
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{/* What every container has: a list of the root and the name of its disk. */}}
{{- define "counterpoint.container" -}}
{{- $root := index . 0 }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: {{ index . 1 }}, mountPath: /var/lib/counterpoint}
  - {name: keys, mountPath: /run/secrets, readOnly: true}
  - {name: tmp, mountPath: /tmp}
{{- if $root.Values.experiments }}
  - {name: experiments, mountPath: /experiments, readOnly: true}
{{- end }}
{{- end }}

{{/* A disk of a pod that keeps it: a list of its name, its size and its class. */}}
{{- define "counterpoint.disk" -}}
metadata: {name: {{ index . 0 }}}
spec:
  accessModes: [ReadWriteOnce]
{{- with index . 2 }}
  storageClassName: {{ . }}
{{- end }}
  resources: {requests: {storage: {{ index . 1 }}}}
{{- end }}
