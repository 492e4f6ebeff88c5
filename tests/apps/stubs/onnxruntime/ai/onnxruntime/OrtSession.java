package ai.onnxruntime;

import java.util.Map;
import java.util.Set;

public class OrtSession implements AutoCloseable {
    private OrtSession() { }

    public Set<String> getInputNames() { throw new RuntimeException("stub"); }

    public Set<String> getOutputNames() { throw new RuntimeException("stub"); }

    public Map<String, NodeInfo> getOutputInfo() throws OrtException { throw new RuntimeException("stub"); }

    public Result run(Map<String, ? extends OnnxTensorLike> inputs, Map<String, ? extends OnnxValue> pinnedOutputs) throws OrtException { throw new RuntimeException("stub"); }

    public Result run(Map<String, ? extends OnnxTensorLike> inputs) throws OrtException { throw new RuntimeException("stub"); }

    @Override public void close() throws OrtException { }

    public static class Result implements AutoCloseable {
        Result() { }

        public OnnxValue get(int index) { throw new RuntimeException("stub"); }

        @Override public void close() { }
    }

    public static class SessionOptions implements AutoCloseable {
        public SessionOptions() { }

        public void setInterOpNumThreads(int numThreads) throws OrtException { }

        public void setIntraOpNumThreads(int numThreads) throws OrtException { }

        public void setMemoryPatternOptimization(boolean memoryPatternOptimization) throws OrtException { }

        public void setSessionLogLevel(OrtLoggingLevel logLevel) throws OrtException { }

        @Override public void close() { }
    }
}
