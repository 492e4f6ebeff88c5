package ai.onnxruntime;

public class NodeInfo {
    NodeInfo() { }

    public ValueInfo getInfo() { throw new RuntimeException("stub"); }
}
