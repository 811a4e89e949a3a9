package android.app;

public final class ActivityManager {
    public void getMemoryInfo(MemoryInfo memory) {
        memory.availMem = Runtime.getRuntime().maxMemory();
    }

    public static final class MemoryInfo {
        public long availMem;
    }
}
