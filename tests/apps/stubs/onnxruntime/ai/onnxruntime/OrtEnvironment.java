package ai.onnxruntime;

public final class OrtEnvironment implements AutoCloseable {
    private OrtEnvironment() { }

    public static OrtEnvironment getEnvironment() { throw new RuntimeException("stub"); }

    public OrtSession createSession(String modelPath, OrtSession.SessionOptions options) throws OrtException { throw new RuntimeException("stub"); }

    public void setTelemetry(boolean sendTelemetry) throws OrtException { }

    public String getVersion() { throw new RuntimeException("stub"); }

    @Override public void close() { }
}
