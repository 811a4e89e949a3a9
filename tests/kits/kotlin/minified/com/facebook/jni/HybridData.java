package com.facebook.jni;

import com.facebook.jni.annotations.DoNotStrip;

/** As in fbjni: the native side asks for the inner class and its field by their names. */
@DoNotStrip
public class HybridData {
    @DoNotStrip private final Destructor destructor = new Destructor();

    public boolean isValid() {
        return destructor.nativePointer != 0;
    }

    public static class Destructor {
        @DoNotStrip volatile long nativePointer;
    }
}
